"""Text files in the encodings that people have."""

import pytest

from ldm_jax.errors import UserError
from ldm_jax.text_files import lines_of, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_utf_8_or_says_what_it_is(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("a häuschen 红".encode(encoding))
    assert read_text(tmp_path / "a.txt", "--from-file") == "a häuschen 红"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "utf-16-be"])
def test_text_in_another_encoding_is_refused_by_the_name_of_its_file(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("café crème".encode(encoding))
    with pytest.raises(UserError, match="^--from-file .*a.txt cannot be read: not text in UTF-8"):
        read_text(tmp_path / "a.txt", "--from-file")


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=f"^{path} cannot be read: (No such file|Is a dir)"):
            read_text(path)


def test_lines_end_at_line_feeds_and_carriage_returns_alone():
    assert lines_of("a\nb\r\nc\rd\u2028e\x85f\n") == ["a", "b", "c", "d\u2028e\x85f", ""]
