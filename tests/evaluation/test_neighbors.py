import builtins

import faiss
import pytest
import torch

from tcm_bench.evaluation.neighbors import nearest_neighbors


def drawn(items, dim=16, seed=0):
    return torch.randn(items, dim, generator=torch.Generator().manual_seed(seed))


def cosines(a, b):
    a, b = (torch.nn.functional.normalize(x.double()) for x in (a, b))
    return a @ b.T


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lists_are_those_of_the_sorted_cosines(dtype):
    x = drawn(200).to(dtype)
    similarities, indices = nearest_neighbors(x, 7)
    expected = cosines(x, x).fill_diagonal_(-2).topk(7)
    assert indices.equal(expected.indices)
    torch.testing.assert_close(similarities.double(), expected.values, rtol=0, atol=1e-6)


def test_a_gallery_is_searched_whole():
    x, gallery = drawn(20), drawn(50, seed=1)
    gallery[3] = 2 * x[3]
    similarities, indices = nearest_neighbors(x, 50, gallery)
    assert indices.equal(cosines(x, gallery).sort(descending=True).indices)
    assert int(indices[3, 0]) == 3
    assert float(similarities[3, 0]) == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 3, 8, 11])
def test_a_row_is_not_its_own_neighbor_where_images_repeat(k):
    x = drawn(4).repeat_interleave(3, dim=0)
    similarities, indices = nearest_neighbors(x, k)
    rows = torch.arange(12)[:, None]
    assert (indices != rows).all()
    assert (indices >= 0).all()
    repeats = indices[:, :2] // 3 == rows // 3
    assert repeats.all()
    assert all(len(set(row)) == k for row in indices.tolist())
    assert (similarities.diff(dim=1) <= 0).all()


def test_identical_rows_have_all_others_as_neighbors():
    _, indices = nearest_neighbors(torch.ones(30, 4), 29)
    assert indices.sort(dim=1).values.tolist() == [[i for i in range(30) if i != row] for row in range(30)]


@pytest.mark.parametrize("k", [0, 5])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"at most the 4 rows there are to find, got {k}"):
        nearest_neighbors(drawn(5), k)


def test_a_row_that_cannot_be_normalized_is_named():
    x = drawn(5)
    x[2] = 0
    with pytest.raises(ValueError, match="row 2"):
        nearest_neighbors(x, 1)


def test_as_many_threads_as_torch_has_and_no_trace_of_it(monkeypatch):
    teams, search = [], faiss.IndexFlatIP.search

    def noted(self, *args):
        teams.append(faiss.omp_get_max_threads())
        return search(self, *args)

    monkeypatch.setattr(faiss.IndexFlatIP, "search", noted)
    before = faiss.omp_get_max_threads()
    for threads in (2, 1):
        torch.set_num_threads(threads)
        nearest_neighbors(drawn(50), 3)
        assert torch.get_num_threads() == threads
    assert teams == [2, 1]
    assert faiss.omp_get_max_threads() == before


def test_without_faiss_one_sentence_says_what_to_do(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "faiss":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="faiss, which is not installed: make setup"):
        nearest_neighbors(drawn(5), 1)
