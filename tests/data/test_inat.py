import time

import pytest

from tcm_bench.data.inat import inat


def test_species_of_the_two_lists(inat_root):
    splits = inat(inat_root, {"train": (2, 3), "test": (2, 3)})
    assert splits.train.class_names == ["Insecta/31", "Aves/2999"]
    assert splits.test.class_names == ["Aves/3001", "Plantae/5000"]
    assert splits.train.labels.tolist() == [1, 1, 0]
    assert splits.test.labels.tolist() == [0, 1, 1]
    assert splits.test.paths[0] == f"{inat_root}/train_val2018/Aves/3001/a.jpg"
    assert {splits.train.image(row).size for row in range(3)} == {(9, 7)}


def test_a_wrong_line_or_a_missing_list_is_named(inat_root):
    with pytest.raises(ValueError, match=r"nowhere is not a folder: iNaturalist-2018 is expected there"):
        inat(inat_root / "nowhere")
    (listing,) = inat_root.rglob("Inaturalist_test_set1.txt")
    listing.write_text("train_val2018/Aves/3001\n")
    with pytest.raises(ValueError, match=r"has the line 'train_val2018/Aves/3001' where train_val2018/<group>"):
        inat(inat_root)
    listing.unlink()
    with pytest.raises(ValueError, match=r"Inaturalist_test_set1.txt is missing"):
        inat(inat_root)


def test_half_a_million_lines_take_seconds(tmp_path):
    for file, species, images in (("train", range(5690), 325_846), ("test", range(5690, 8142), 136_093)):
        lines = (f"train_val2018/Group/{species[n % len(species)]}/{n:032}.jpg\n" for n in range(images))
        (tmp_path / f"Inaturalist_{file}_set1.txt").write_text("".join(lines))
    start = time.process_time()
    splits = inat(tmp_path, {"train": (5690, 325_846), "test": (2452, 136_093)})
    assert time.process_time() - start < 8  # 2 s when the machine is idle
    assert type(splits.train.paths[0]) is str
