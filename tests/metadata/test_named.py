import pytest

from zarr_gpu.metadata.named import NamedConfig, parse_named
from zarr_gpu.metadata.problems import Problems


@pytest.mark.parametrize(
    "document",
    [
        "bytes",
        {"name": "bytes"},
        {"name": "bytes", "configuration": {}},
        {"name": "bytes", "must_understand": True},
        {"configuration": {"endian": "little"}, "name": "bytes"},
    ],
)
def test_every_spelling_is_read_and_written_back_unchanged(document):
    problems = Problems()
    named = parse_named(document, (), problems)
    assert problems.found == []
    assert named.name == "bytes"
    assert named.to_json() == document


def test_spellings_of_the_same_thing_are_equal():
    problems = Problems()
    assert parse_named("a", (), problems) == parse_named({"name": "a"}, (), problems)


def test_what_code_makes_is_written_in_object_form_without_empty_members():
    assert NamedConfig("crc32c").to_json() == {"name": "crc32c"}
    assert NamedConfig("a", {"b": 1}, must_understand=False).to_json() == {
        "name": "a",
        "configuration": {"b": 1},
        "must_understand": False,
    }


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (None, ["codecs[0]"]),
        (["bytes"], ["codecs[0]"]),
        ("", ["codecs[0].name"]),
        ({}, ["codecs[0].name"]),
        ({"name": 1, "configuration": 2}, ["codecs[0].name", "codecs[0].configuration"]),
        ({"name": "a", "must_understand": "no"}, ["codecs[0].must_understand"]),
        ({"name": "a", "must_understand": False}, ["codecs[0].must_understand"]),
        ({"name": "a", "level": 3, "depth": 4}, ["codecs[0].depth", "codecs[0].level"]),
    ],
)
def test_each_fault_is_reported_at_its_place(document, where):
    problems = Problems()
    assert parse_named(document, ("codecs", 0), problems) is None
    assert [str(problem).split(":")[0] for problem in problems.found] == where


def test_must_understand_false_is_read_where_the_extension_point_allows_it():
    problems = Problems()
    document = {"name": "a", "must_understand": False}
    named = parse_named(document, (), problems, ignorable=True)
    assert named.must_understand is False
    assert problems.found == []
