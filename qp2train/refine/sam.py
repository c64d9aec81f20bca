"""SamPrompts: the models of the SAM family answer prompts."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from qp2train.errors import ModelError
from qp2train.learn.modelfiles import README, check_target, replace_folder
from qp2train.refine.mobilesam import MOBILE, TinyEncoder
from qp2train.refine.prompts import Candidate, Pixels, Prompt, check_image
from qp2train.refine.samframe import Frame, question
from qp2train.refine.samkeys import original_state
from qp2train.refine.transformersdoor import quiet

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# All that a saved SAM consists of.
FILES = (CONFIG, WEIGHTS, README, f"{WEIGHTS}.index.json", "preprocessor_config.json", "processor_config.json")


class SamPrompts:
    """A SAM, SAM 2, EdgeTAM, SAM 3 or MobileSAM as a prompted model; `load_sam` makes one.

    `encode` runs the image encoder, once per view; prompts then take the small mask decoder alone.

    Args:
        name: Of the folder or file that it comes from; with a hash of the weights it is the `id` that marks the
            objects made by it. Equal weights, equal hash, in whatever layout they are kept.
        net: Of transformers; it is put into evaluation mode and frozen.
        images: The image processor that belongs to it.
        device: Where it runs.
    """

    def __init__(self, name: str, net: Any, images: Any, *, device: torch.device | str = "cpu") -> None:
        self.name, self.images, self.device = name, images, torch.device(device)
        self.net = net.eval().requires_grad_(False).to(self.device)
        prompts = net.config.prompt_encoder_config
        self.side = int(prompts.image_size)
        self.grid = 4 * self.side // int(prompts.patch_size)
        self.digest = _digest(net)

    @property
    def id(self) -> str:
        """Name and a hash of the weights: what QuPath shows as the source of its objects."""
        return f"{self.name}-{self.digest[:8]}"

    def __repr__(self) -> str:
        return f"SamPrompts({self.id!r}, {type(self.net).__name__})"

    def encode(self, image: Pixels) -> SamView:
        """Look at a view: (H, W, 3) uint8, RGB in [0, 255].

        Raises:
            PromptError: It is no such array.
            ModelError: The folder's image processor is of another model.
        """
        frame, pixels = self.prepare(image)
        return SamView(self, self.embed(pixels), frame, (image.shape[0], image.shape[1]))

    def prepare(self, image: Pixels) -> tuple[Frame, torch.Tensor]:
        """A view as the network wants it, (1, 3, side, side), and where the view lies in it.

        Raises:
            PromptError: It is no picture.
            ModelError: The folder's image processor is of another model.
        """
        check_image(image)
        # A strip thinner than a pixel of the square would vanish: its last rows or columns are repeated.
        least = math.ceil(max(image.shape[:2]) / self.side)
        more = [(0, max(0, least - n)) for n in image.shape[:2]]
        image = np.pad(image, [*more, (0, 0)], mode="edge") if any(n for _, n in more) else image
        # Said, as transformers takes a view of 1 or 3 rows for one with its channels first.
        made = self.images(images=image, return_tensors="pt", input_data_format="channels_last")
        pixels: torch.Tensor = made["pixel_values"]
        if tuple(pixels.shape) != (1, 3, self.side, self.side):
            raise ModelError(
                f"{self.name}: its image processor makes pictures of {tuple(pixels.shape)}, the network takes "
                f"{(1, 3, self.side, self.side)}; the folder mixes files of two models"
            )
        padded = "reshaped_input_sizes" in made
        height, width = map(int, made["reshaped_input_sizes"][0]) if padded else (self.side, self.side)
        return Frame((image.shape[0], image.shape[1]), (height, width), self.side, self.grid, padded), pixels

    def embed(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The image encoder's answer to a prepared view: one tensor for SAM and MobileSAM, several for later models."""
        with torch.no_grad():
            made = self.net.get_image_embeddings(pixels.to(self.device))
        return [made] if isinstance(made, torch.Tensor) else list(made)

    def answer(self, embeddings: Sequence[torch.Tensor], asked: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The mask decoder's answer to a `question`: logits (N, grid, grid) and predicted IoUs (N,), unsorted."""
        seen = [e.to(self.device) for e in embeddings]
        given = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in asked.items()}
        said = self.net(image_embeddings=seen[0] if _takes_one(self.net) else seen, **given)
        return said.pred_masks[0, 0], said.iou_scores[0, 0]

    def with_own_decoder(self) -> SamPrompts:
        """One with a mask decoder of its own, to be trained; everything else is shared, not copied."""
        other = copy.copy(self)
        other.net = copy.copy(self.net)
        # A shallow copy of a module shares its table of parts, in which the decoder is to be another one.
        other.net._modules = dict(self.net._modules)
        other.net.mask_decoder = copy.deepcopy(self.net.mask_decoder)
        return other

    def save(self, folder: str | Path) -> Path:
        """Write it into a folder that `load_sam` reads; an older SAM there is replaced whole.

        The files are transformers' own (config.json, model.safetensors, the processor's settings), so that other
        tools read them, too. Those of MobileSAM, which transformers does not know, have the original names of the
        weights. The folder's name is part of the `id` of what is loaded from it.

        Returns:
            The folder.

        Raises:
            ModelError: There is something else than a SAM, which stays as it is.
        """
        folder = Path(folder)
        check_target(folder, own=FILES)
        new = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        if isinstance(self.net.vision_encoder, TinyEncoder):
            save_file(original_state(self.net), new / WEIGHTS)
            (new / CONFIG).write_text(json.dumps({"model_type": MOBILE}), encoding="utf-8")
        else:
            with quiet():
                self.net.save_pretrained(new)
                self.images.save_pretrained(new)
        return replace_folder(new, folder)


class SamView:
    """A view that a SAM has looked at.

    Args:
        model: Which.
        embeddings: What its encoder made of the view.
        frame: Where the view lies in the square that the model sees.
        size: (height, width) of the view; the frame may be of a broader one.
    """

    def __init__(
        self, model: SamPrompts, embeddings: Sequence[torch.Tensor], frame: Frame, size: tuple[int, int]
    ) -> None:
        self._model, self._embeddings, self._frame, self._size = model, embeddings, frame, size

    def predict(self, prompt: Prompt) -> list[Candidate]:
        """Three candidates for a single click, else one, the best first; see `question` for what is asked.

        Clicks against everything, without an outline or a box, find nothing: one empty candidate.

        Raises:
            PromptError: The mask is not of the view's size.
        """
        asked = question(prompt.within(*self._size), self._frame)
        if asked is None:
            return [Candidate(np.zeros(self._size, np.bool_), 0.0)]
        with torch.no_grad():
            logits, ious = self._model.answer(self._embeddings, asked)
            masks = (self._frame.to_view(logits) > 0)[:, : self._size[0], : self._size[1]].cpu().numpy()
        found = [Candidate(mask, min(max(float(iou), 0.0), 1.0)) for mask, iou in zip(masks, ious, strict=True)]
        return [found[i] for i in torch.argsort(ious, descending=True, stable=True).tolist()]


def _takes_one(net: nn.Module) -> bool:
    """Whether it is a SAM 1 or MobileSAM: later decoders also take finer embeddings."""
    return type(net).__name__ == "SamModel"


def _digest(net: nn.Module) -> str:
    """SHA-256 of the weights and their names, as hexadecimal digits."""
    h = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        h.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        h.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()
