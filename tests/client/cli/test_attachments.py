import os

import pytest

from tokenwire.cli.attachments import (
    MAX_FILE_BYTES,
    audio_value,
    document_value,
    image_value,
    json_schema_value,
)


@pytest.mark.parametrize("data", [b"ID3\x04", b"\xff\xfb\x90"])
def test_an_mp3_file_is_recognized_by_its_content(data, tmp_path):
    path = tmp_path / "any.name"
    path.write_bytes(data)

    assert audio_value(str(path)) == (data, "audio/mpeg")


@pytest.mark.parametrize(
    ("parse", "data", "says"),
    [
        (document_value, b"\xff\xfe", "neither a PDF nor UTF-8 text"),
        (document_value, b"", "is empty"),
        (document_value, b"x" * (MAX_FILE_BYTES + 1), "is larger than"),
        (document_value, None, "cannot be read: No such file"),
        (image_value, b"BM", "is not a PNG, JPEG, GIF or WebP file"),
        (audio_value, b"RIFF\0\0\0\0AVI ", "neither a WAV nor an MP3 file"),
        (json_schema_value, b"{", "is not JSON"),
        (json_schema_value, b"\xff{}", "is not JSON"),
        (json_schema_value, b"[]", "is not a JSON object"),
    ],
)
def test_a_file_that_cannot_be_sent_is_named(parse, data, says, tmp_path):
    path = tmp_path / "file"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(ValueError, match=f"file' .*{says}"):
        parse(str(path))


def test_a_schema_has_the_name_of_its_file(tmp_path):
    path = tmp_path / "the plan.v2.json"
    path.write_text(' {"type": "object"}')

    assert json_schema_value(str(path)) == ("the_plan_v2", ' {"type": "object"}')


def test_an_address_that_providers_do_not_fetch_is_refused():
    with pytest.raises(ValueError, match=r"'http://a\.test/b\.pdf' is not an https:// address"):
        document_value("http://a.test/b.pdf")


def test_a_path_with_a_null_byte_cannot_be_read():
    with pytest.raises(ValueError, match="cannot be read: it is not a path"):
        document_value("a\0b")


def test_a_file_name_that_is_not_utf_8_gives_a_title_that_can_be_sent(tmp_path):
    path = os.fsencode(tmp_path) + b"/a\xff.txt"
    with open(path, "wb") as file:  # noqa: PTH123  # the path is bytes
        file.write(b"Hi")

    assert document_value(os.fsdecode(path)).title == "a\ufffd.txt"


def test_an_address_that_is_not_utf_8_is_refused():
    with pytest.raises(ValueError, match="is not UTF-8"):
        document_value("https://\udcff")


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n..", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a..", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_an_image_is_recognized_by_its_content(data, media_type, tmp_path):
    path = tmp_path / "any.name"
    path.write_bytes(data)

    assert image_value(str(path)) == (data, media_type)


def test_an_image_may_be_an_address_of_the_web():
    assert image_value("http://example.com/a.png") == ("http://example.com/a.png", "")
    with pytest.raises(ValueError, match="not an https:// or http:// address"):
        image_value("ftp://example.com/a.png")
