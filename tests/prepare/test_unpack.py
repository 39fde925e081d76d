"""Archives as they come: sound ones in every packing, broken ones, and those made to do harm."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import warnings
import zipfile

import pytest

from tcm_bench.prepare.unpack import Unpacker, archives_in, kind_of

FILES = {"set/images/a.jpg": b"A" * 3000, "set/images/b.jpg": b"B" * 700, "set/list.txt": b"a.jpg\nb.jpg\n"}


def tar(entries, mode="w"):
    """A tar archive of names and bytes, or of ready `TarInfo`s and bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(entries, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


PACKED = {
    "tar": tar(FILES.items()),
    "gz": gzip.compress(tar(FILES.items())),
    "bz2": bz2.compress(tar(FILES.items())),
    "xz": lzma.compress(tar(FILES.items())),
    "zip": zipped(FILES.items()),
    "stored zip": zipped(FILES.items(), zipfile.ZIP_STORED),
    "bzip2 zip": zipped(FILES.items(), zipfile.ZIP_BZIP2),
    "zip with folders": zipped([("set/", b""), ("set/images/", b""), *FILES.items()]),
    "zip from Windows": zipped((name.replace("/", "\\"), content) for name, content in FILES.items()),
    "tar from here": tar(("./" + name, content) for name, content in FILES.items()),
}


def below_set(name):
    return name.removeprefix("set/") if name.startswith("set/") else None


@pytest.fixture
def unpack(tmp_path):
    """Unpacks bytes, or files, into `unpack.tree`, which ought to be the only thing that changes."""

    def unpack(*sources, place=below_set, max_bytes=10_000_000):
        unpacker = Unpacker(unpack.tree, place, max_bytes, print)
        paths = []
        for number, source in enumerate(sources):
            if isinstance(source, bytes):
                path = tmp_path / f"no suffix {number}"
                path.write_bytes(source)
                source = path
            paths.append(source)
        return [unpacker.add(path) for path in paths]

    unpack.tree = tmp_path / "work" / "tree"
    unpack.tree.mkdir(parents=True)
    return unpack


def content(tree):
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


EXPECTED = {name.removeprefix("set/"): content for name, content in FILES.items()}


@pytest.mark.parametrize("packing", PACKED)
def test_every_packing_is_recognized_by_its_content(unpack, packing):
    assert unpack(PACKED[packing]) == [3]
    assert content(unpack.tree) == EXPECTED
    assert [path.name for path in unpack.tree.parent.iterdir()] == ["tree"]


def test_folders_and_single_files_are_sources_too(unpack, tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert unpack(tmp_path / "set" / "images", tmp_path / "set" / "list.txt", place=lambda name: name) == [2, 1]
    assert set(content(unpack.tree)) == {"a.jpg", "b.jpg", "list.txt"}


def test_archives_are_found_in_folders_whatever_they_are_called(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.bin").write_bytes(PACKED["gz"])
    (tmp_path / "two").write_bytes(PACKED["zip"])
    (tmp_path / "no.zip").write_bytes(b"<html>log in first</html>")
    (tmp_path / "empty.tgz").write_bytes(b"")
    (tmp_path / ".hidden.zip").write_bytes(PACKED["zip"])
    assert [path.name for path in archives_in(tmp_path)] == ["two", "one.bin"]
    assert kind_of(tmp_path / "no.zip") == "file"


@pytest.mark.parametrize("packing", ["tar", "gz", "zip"])
def test_what_systems_leave_behind_is_passed_over(unpack, packing):
    junk = ["set/images/._a.jpg", "set/.DS_Store", "__MACOSX/set/images/a.jpg", "set/__MACOSX/x.jpg", "set/.git/x"]
    entries = [*((name, b"junk") for name in junk), *FILES.items()]
    unpack({"tar": tar(entries), "gz": gzip.compress(tar(entries)), "zip": zipped(entries)}[packing])
    assert content(unpack.tree) == EXPECTED


def test_modes_of_the_archive_do_not_matter(unpack):
    info = tarfile.TarInfo("set/run")
    info.mode, info.size, info.uid = 0o6777, 1, 12345
    unpack(tar([(info, b"x")]))
    mode = (unpack.tree / "run").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)
    assert mode & stat.S_IRUSR


@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt", "/tmp/out.txt", "set/images/../../../out.txt"])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_a_path_that_leads_out_is_refused(unpack, name, pack):
    with pytest.raises(ValueError, match=r"not to be trusted: it holds the path .*out\.txt"):
        unpack(pack([*FILES.items(), (name, b"x")]))
    assert set(content(unpack.tree)) <= set(EXPECTED)
    assert not list(unpack.tree.parent.parent.rglob("out.txt"))


@pytest.mark.parametrize("name", ["..\\out.txt", "C:\\out.txt", "set\\..\\..\\out.txt"])
def test_so_is_one_that_leads_out_on_windows(unpack, name):
    with pytest.raises(ValueError, match="not to be trusted"):
        unpack(zipped([(name, b"x")]))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("name", ["set/images/link", "elsewhere"])
def test_a_link_that_leads_out_is_refused(unpack, target, kind, name):
    with pytest.raises(ValueError, match="not to be trusted"):
        unpack(tar([(special(name, kind, target), b""), *FILES.items()]))
    assert not content(unpack.tree)


def test_a_link_within_is_refused_if_it_is_wanted_and_no_matter_if_not(unpack):
    inner = special("set/images/link.jpg", tarfile.SYMTYPE, "a.jpg")
    with pytest.raises(ValueError, match="is a link"):
        unpack(tar([*FILES.items(), (inner, b"")]))
    unpack(tar([*FILES.items(), (special("latest", tarfile.SYMTYPE, "set"), b"")]))
    assert content(unpack.tree) == EXPECTED


def test_a_link_in_a_zip_is_refused(unpack):
    info = zipfile.ZipInfo("set/images/link.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ValueError, match="is a link"):
        unpack(zipped([(info, b"/etc/passwd")]))
    assert not content(unpack.tree)


def test_a_hard_link_is_the_file_it_names(unpack):
    """GNU tar packs a file with two names like this."""
    unpack(tar([*FILES.items(), (special("set/images/c.jpg", tarfile.LNKTYPE, "set/images/a.jpg"), b"")]))
    assert content(unpack.tree) == {**EXPECTED, "images/c.jpg": FILES["set/images/a.jpg"]}
    assert (unpack.tree / "images" / "c.jpg").stat().st_nlink == 1


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(unpack, kind):
    with pytest.raises(ValueError, match="not to be trusted"):
        unpack(tar([(special("set/images/device", kind), b"")]))


def test_a_link_in_a_folder_may_not_lead_out(unpack, tmp_path):
    outside, folder = tmp_path / "outside.jpg", tmp_path / "set"
    outside.write_bytes(b"private")
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "inner.jpg").write_bytes(b"inner")
    (folder / "again.jpg").symlink_to(folder / "images" / "inner.jpg")
    unpack(folder, place=lambda name: name)
    assert content(unpack.tree) == {"images/inner.jpg": b"inner", "again.jpg": b"inner"}
    for link, target in {"file.jpg": outside, "folder": tmp_path}.items():
        (folder / link).symlink_to(target)
        with pytest.raises(ValueError, match=f"{link} in .* is a link"):
            unpack(folder, place=lambda name: name)
        (folder / link).unlink()


def bomb(size):
    return [("set/images/zeros.jpg", bytes(size))]


@pytest.mark.parametrize("pack", [lambda entries: gzip.compress(tar(entries)), zipped])
def test_a_bomb_is_refused_by_what_comes_out_of_it(unpack, pack):
    with pytest.raises(ValueError, match="can be right"):
        unpack(pack(bomb(90_000_000)), max_bytes=10**12)
    assert not content(unpack.tree)


def test_a_bomb_beside_what_is_wanted_is_refused_too(unpack):
    with pytest.raises(ValueError, match="can be right"):
        unpack(gzip.compress(tar([("elsewhere", bytes(90_000_000)), *FILES.items()])), max_bytes=10**12)


def test_a_zip_that_understates_a_size_is_damaged(unpack):
    data = zipped([("set/images/a.jpg", bytes(100_000))])
    place = data.rindex(b"PK\x01\x02")
    lie = data[: place + 24] + (10).to_bytes(4, "little") + data[place + 28 :]
    with pytest.raises(ValueError, match="damaged"):
        unpack(lie)
    assert not content(unpack.tree)


def test_the_sum_of_all_sources_is_bounded(unpack):
    halves = [tar([(f"set/{half}.jpg", bytes(600_000))]) for half in "ab"]
    with pytest.raises(ValueError, match=r"more than the 1\.0 MB"):
        unpack(*halves, max_bytes=1_000_000)


def test_the_number_of_members_is_bounded(unpack, monkeypatch):
    monkeypatch.setattr("tcm_bench.prepare.unpack.MAX_MEMBERS", 100)
    many = [(f"elsewhere/{number}", b"") for number in range(101)]
    with pytest.raises(ValueError, match="more than 100 files"):
        unpack(zipped(many))


def cut(data, share):
    return data[: int(len(data) * share)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("packing", ["tar", "gz", "bz2", "xz", "zip"])
def test_an_archive_cut_short_is_one_sentence_that_names_it(unpack, packing, share):
    data = cut(PACKED[packing], share)
    if packing == "tar" and share > 0.6:
        data = data[:-6000]  # its last 5 KB are padding
    with pytest.raises(ValueError, match=r"^\S.*no suffix 0 is damaged or cut short \(.*\): fetch it again$"):
        unpack(data)


def test_a_tar_cut_between_two_files_is_noticed(unpack):
    with pytest.raises(ValueError, match="its end is missing"):
        unpack(PACKED["tar"][: 512 + 3072])


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "stored zip"])
def test_flipped_bytes_are_noticed(unpack, packing):
    data = bytearray(PACKED[packing])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ValueError, match=r"damaged|cannot be read"):
        unpack(bytes(data))


def test_a_broken_header_is_not_taken_for_the_end(unpack):
    data = bytearray(PACKED["tar"])
    data[512 + 3072 + 148] ^= 0xFF  # checksum of the second member
    with pytest.raises(ValueError, match="goes on after its end"):
        unpack(bytes(data))


def test_a_zip_with_a_password_is_one_sentence(unpack):
    data = bytearray(zipped([("set/list.txt", b"secret")]))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    with pytest.raises(ValueError, match=r"set/list\.txt in .* cannot be read: .*password"):
        unpack(bytes(data))


@pytest.mark.parametrize("pair", [("a.jpg", "A.JPG"), ("a.jpg", "a.jpg."), ("straße.jpg", "STRASSE.jpg")])
def test_names_that_are_one_file_elsewhere_are_refused(unpack, pair):
    with pytest.raises(ValueError, match="on many file systems they are one file"):
        unpack(tar((f"set/{name}", name.encode()) for name in pair))


def test_a_file_that_comes_twice_must_be_the_same(unpack):
    unpack(PACKED["gz"], PACKED["zip"])
    assert content(unpack.tree) == EXPECTED
    with pytest.raises(ValueError, match=r"another list\.txt"):
        unpack(PACKED["tar"], tar([("set/list.txt", b"b.jpg\na.jpg\n")]))


def test_a_name_that_is_a_file_and_a_folder_is_one_sentence(unpack):
    with pytest.raises(ValueError, match="as a file and as a folder"):
        unpack(tar([("set/x", b"file"), ("set/x/y.jpg", b"in a folder")]))


def test_files_that_are_whole_are_not_written_again_and_others_are(unpack):
    unpack(PACKED["gz"])
    marks = {name: (unpack.tree / name).stat().st_ino for name in EXPECTED}
    (unpack.tree / "images" / "a.jpg").write_bytes(b"A")
    unpack(PACKED["gz"])
    changed = {name for name in EXPECTED if (unpack.tree / name).stat().st_ino != marks[name]}
    assert changed == {"images/a.jpg"}
    assert content(unpack.tree) == EXPECTED
