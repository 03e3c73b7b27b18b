import json
import multiprocessing
import subprocess
import sys

from keras_aha.tasks.tools import search
from keras_aha.tasks.tools.passages import Passage, read_passages
from keras_aha.tasks.tools.search import NOTHING_FOUND, Search

import pytest

FACTS = [Passage("0", "57", "lo"), Passage("1", "lo", "kib"), Passage("2", "lo", "zed")]


def test_a_result_is_a_line_best_first_and_equal_ones_in_order():
    tool = Search(FACTS)
    assert tool.call(None, query="Lo?") == "[0] lo: 57\n[1] kib: lo\n[2] zed: lo"  # words of a title count twice
    assert Search(FACTS, results=1).call(None, query="where is kib") == "[1] kib: lo"
    text = "Nothing here. " * 40 + "The gate of Osme\nis old. " + "More. " * 40
    line = Search([Passage("a b", text)], snippet_length=30).call(None, query="gate osme")
    assert line == "[a_b] …gate of Osme is old. More. Mor…"


@pytest.mark.parametrize("query", ["", "the of\n", "\0\x1b\ud800", "qq " * 400_000, "]" * 10**6, "unknown"])
def test_a_query_that_finds_nothing(query):
    assert Search(FACTS).call(None, query=query) == NOTHING_FOUND


def test_a_folder_of_texts_and_a_file_of_rows(tmp_path):
    (tmp_path / "towns").mkdir()
    (tmp_path / "towns" / "Old_Torvik.md").write_text("\ufeffTorvik.\r\n\r\n" + "In Osme. " * 150 + "\n\nIts end.")
    (tmp_path / "one.txt").write_text("One.")
    passages = read_passages(tmp_path)
    assert [passage.id for passage in passages] == ["one.txt", *(f"towns/Old_Torvik.md#{n}" for n in (1, 2, 3))]
    assert passages[2].names == {"towns/Old_Torvik.md#2", "towns/Old_Torvik.md", "Old_Torvik"}
    assert passages[1].text == "Torvik." and all(len(passage.text) <= 1000 for passage in passages)
    assert passages[3].text.endswith("\nIts end.")
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(fact._asdict()) + "\n" for fact in FACTS))
    assert read_passages(tmp_path / "facts.jsonl") == tuple(FACTS)
    for name, text, error in [
        ("twice.csv", "id,text\n1,a\n1,b\n", "the id '1' twice"),
        ("no.csv", "id,words\n1,a\n", "Line 2 of no.csv has no `text`"),
        ("blank.txt", " \n", "`corpus` must have a text or more"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=error):
            Search(tmp_path / name)


def _search_many(_):
    return Search([Passage(str(i), f"name{i} town{i % 7}") for i in range(2001)], results=2).call(None, "town3")


def test_an_index_is_kept_built_by_two_at_once_and_made_anew_if_it_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        expected, again = pool.map(_search_many, range(2))
    assert expected == again == "[3] name3 town3\n[10] name10 town3"
    (folder,) = (tmp_path / "keras-aha" / "search").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(search, "_words", lambda text: ["town3"])  # an index of this would be another one
        assert _search_many(0) == expected
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:50])
        assert _search_many(0) == expected and file.stat().st_size > 50
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # where nothing can be written
    assert _search_many(0) == expected


def test_without_the_extra_pip_is_named_and_with_it_jax_is_left_alone(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bm25s", None)
        with pytest.raises(ValueError, match=r'pip install "keras-aha\[search\]"'):
            Search(FACTS)
    with pytest.raises(ValueError, match="`results` and `snippet_length` must be 1 or more"):
        Search(FACTS, results=0)
    code = "from keras_aha.tasks.tools import search, passages\n"
    code += "import sys; search.Search([passages.Passage('1', 'a b')]); print('jax' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert child.stdout == "False\n"
