"""Throughput of the same model without a server, as the upper bound for the server."""

import itertools
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from deploy.archive import MODEL_CONFIG
from handler.captioner import Captioner
from handler.parallel import available_cpus
from handler.serving.option_parsing import parse_options


class InProcess:
    """`Captioner` with the bundle, backend, precision, threads and batch size of an archive.

    Args:
        archive: Archive of a bundle.
        directory: Directory to unpack the bundle into.
        options: Generation options, as in a request.

    Raises:
        BundleError: If the bundle is damaged.
        RequestError: If an option is unknown or out of range.
    """

    def __init__(self, archive: Path, directory: Path, options: Mapping[str, Any]) -> None:
        with zipfile.ZipFile(archive) as content:
            config = yaml.safe_load(content.read(MODEL_CONFIG))
            content.extractall(directory, [name for name in content.namelist() if name.startswith("model/")])
        handler_settings = config["handler"]
        self.batch_size = config["batchSize"]
        self.threads = handler_settings["threads"] or available_cpus()
        torch.set_num_threads(self.threads)
        self.captioner = Captioner.load(
            directory / "model", backend=handler_settings["backend"], precision=handler_settings["precision"]
        )
        self.options = parse_options(options, self.captioner.config.decoding)

    def throughput(self, images: Sequence[bytes], seconds: float) -> float:
        """Caption images in batches for at least `seconds`, and return the captions per second."""
        torch.set_num_threads(self.threads)
        stream, captions, start = itertools.cycle(images), 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            batch = list(itertools.islice(stream, self.batch_size))
            captions += len(self.captioner.caption(batch, self.options, batch_size=self.batch_size))
        return captions / elapsed
