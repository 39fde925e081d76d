"""Where stderr is no terminal, as here, progress is a line now and then."""

from tcm_bench.progress import progress


def test_lines_name_what_is_done_and_how_much_there_is(monkeypatch, capsys):
    monkeypatch.setattr("tcm_bench.progress.LINE_EVERY_S", 0)
    said = []
    with progress("downloading a.tgz", said.append, in_bytes=True) as tell:
        tell(1_500_000, 3_000_000)
        tell(2_000_000, None)
    with progress("reading [images]", said.append) as tell:
        tell(1_000, 2_000)
    assert said == [
        "downloading a.tgz: 1.5 MB of 3.0 MB", "downloading a.tgz: 2.0 MB", "reading [images]: 1,000 of 2,000",
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")


def test_a_line_comes_only_now_and_then_and_none_unless_asked_for(capsys):
    said = []
    with progress("reading", said.append) as tell:
        tell(1, 2)
    with progress("reading") as tell:
        tell(1, 2)
    assert not said
    assert capsys.readouterr() == ("", "")
