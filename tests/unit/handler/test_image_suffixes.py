"""Names of image files, held against the formats that are read."""

import pytest
from PIL import Image

from deploy.batch.sources import ImageFolder
from eval.image_files import find_images
from handler.__main__ import find_images as find_images_without_a_server
from handler.image import FORMATS
from handler.image_suffixes import IMAGE_SUFFIXES

HEIC_SUFFIXES = {".heic", ".heics", ".heif", ".heifs", ".hif"}  # of ISO/IEC 23008-12; Pillow knows none of them


def test_image_suffixes_are_those_of_the_formats_that_are_read():
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert registered | HEIC_SUFFIXES == IMAGE_SUFFIXES


@pytest.mark.parametrize("name", ["a.HEIC", "a.avif", "a.tif", "a.jfif"])
def test_image_of_any_format_is_found_on_all_roads(tmp_path, name):
    (tmp_path / name).write_bytes(b"-")
    (tmp_path / "a.txt").write_bytes(b"-")
    assert find_images([str(tmp_path)]) == [str(tmp_path / name)]
    assert find_images_without_a_server([tmp_path]) == [tmp_path / name]
    assert ImageFolder(str(tmp_path)).listing == [name]
