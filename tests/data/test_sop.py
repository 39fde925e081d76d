import pytest

from tcm_bench.data.sop import sop


def test_the_authors_lists(sop_root):
    splits = sop(sop_root, {"train": (2, 3), "test": (2, 4)})
    assert splits.train.class_names == ["product 1", "product 2"]
    assert splits.test.class_names == ["product 11319", "product 11320"]
    assert splits.train.labels.tolist() == [0, 0, 1]
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    assert splits.train.paths[2] == f"{sop_root}/toaster_final/222_0.JPG"
    assert {splits.test.image(row).size for row in range(4)} == {(9, 7)}
    assert sop(sop_root.parent).fingerprint == splits.fingerprint


def test_a_product_on_both_sides_is_refused(sop_root):
    with (sop_root / "Ebay_test.txt").open("a") as file:
        file.write("8 2 12 toaster_final/222_0.JPG\n")
    with pytest.raises(ValueError, match=r"1 classes are in train and in test, for example 'product 2'"):
        sop(sop_root)


def test_a_missing_list_is_named(sop_root, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a folder: Stanford Online Products is expected there"):
        sop(tmp_path / "nowhere")
    (sop_root / "Ebay_test.txt").unlink()
    with pytest.raises(ValueError, match=r"Ebay_test.txt is missing"):
        sop(sop_root)
