"""Steps of a search that are compiled.  A token is hundreds of small kernels, whose launches take a GPU longer than the
kernels; compiled over keys and values that never move, a step is one CUDA graph.

The search, the static cache and the options of compilation are transformers' own.  It compiles the steps of a greedy
search by itself, but not those of beams, whose reordering puts other tensors into its cache; and it makes a cache a
search, for whose addresses a graph is recorded anew.  So the compiled pass is called from here, over a cache that is
kept from search to search and filled with what was read of the prompts.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from transformers import CompileConfig, PreTrainedConfig, PreTrainedModel, StaticCache
from transformers.generation import GenerationMode

from models.language.lora import LanguageModel
from models.language.quantization import is_quantized
from models.prompt_cache import CACHE, Prompt, can_read_ahead, layers_of

log = logging.getLogger(__name__)
LEAST_COLUMNS = 2048  # most prompts and answers fit, so that one size is compiled
MOST_CACHES = 4  # for so many numbers of rows: a cache of many rows has gigabytes
_STEPS = "ctinstruct_steps"  # the attribute of a language model that keeps its `CompiledSteps`
# one token a pass
_SEARCHES = {
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
}


def compile_steps(model: LanguageModel, config: CompileConfig | None = None, columns: int = LEAST_COLUMNS) -> None:
    """Let `models.generation` decode with compiled steps; where that cannot be, a line in the log says so.

    The first answer is compiled for, and the first to another number of rows, which takes from seconds to minutes.

    Args:
        config: of ``torch.compile``; by default transformers' own, which has CUDA graphs on a GPU, and no graph breaks.
        columns: tokens of prompt and answer that a cache has room for at first.
    """
    if reason := why_not(model):
        log.warning("answers are decoded without compiled steps: %s", reason)
        return
    setattr(model, _STEPS, CompiledSteps(model, config or CompileConfig(fullgraph=True), columns))


def compiled_steps(model: LanguageModel) -> CompiledSteps | None:
    """What `compile_steps` gave the language model, or None."""
    return getattr(model, _STEPS, None)


def why_not(model: LanguageModel) -> str | None:
    """Why a language model's steps cannot be compiled, in a line; None where they can."""
    if is_quantized(model):
        return "the language model is quantised"
    if not can_read_ahead(model):
        return "the language model has sliding windows, recurrent states or a cache of its own choice"
    if not _inner(model)._can_compile_fullgraph:
        return f"transformers does not compile a {type(_inner(model)).__name__} as a whole"
    mode = cast(Any, model.generation_config).get_generation_mode()
    return None if mode in _SEARCHES else f"its generation_config asks for {mode.value}"


class StepCache(StaticCache):
    """Keys and values of rows that are searched for together, (rows, heads, columns, C), which stay where they are.

    filled: columns that hold tokens.  common: of these, the first ones that all beams of a question share.
    """

    def __init__(self, config: PreTrainedConfig, columns: int) -> None:
        super().__init__(config=config, max_cache_len=columns)
        self.config, self.columns = config, columns
        self.filled = self.common = 0

    def fill(self, layers: Sequence[tuple[Tensor, Tensor]], common: int) -> None:
        """Take each layer's keys and values (rows, heads, n, C) in place of what was held."""
        self.reset()
        for index, (keys, values) in enumerate(layers):
            self.update(keys, values, index)
        self.filled, self.common = layers[0][0].shape[-2], common

    def tensors(self) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values, all of them."""
        layers: list[Any] = self.layers
        return [(layer.keys, layer.values) for layer in layers]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As transformers', but in place, and only where beams differ."""
        own = slice(self.common, self.filled)
        for layer in self.tensors():
            for states in layer:
                states[:, :, own] = states[:, :, own].index_select(0, beam_idx)

    def grown(self) -> StepCache:
        """A copy with twice the room."""
        bigger = StepCache(self.config, 2 * self.columns)
        held = slice(self.filled)
        bigger.fill([(keys[:, :, held], values[:, :, held]) for keys, values in self.tensors()], self.common)
        return bigger


class CompiledSteps:
    """The compiled pass over one token, and for the latest numbers of rows the cache that it runs on.

    One search at a time has them; one that begins meanwhile, in another thread, goes without compiled steps.
    Where a cache was once too small, one of twice the room stays in its place.
    """

    def __init__(self, model: LanguageModel, config: CompileConfig, columns: int) -> None:
        self._model = _inner(model)
        self._compiled: Callable[..., Any] | None = torch.compile(self._model.forward, **config.to_dict())
        self._columns = columns
        self._caches: dict[tuple[int, torch.device, torch.dtype], StepCache] = {}
        self._searching = threading.Lock()

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled, or will be: until one could not."""
        return self._compiled is not None

    @contextmanager
    def search_inputs(self, prompt: Prompt, beams: int) -> Iterator[dict[str, Any]]:
        """What ``generate`` is given of a prompt whose columns but the last are read; inside, its steps are
        compiled."""
        inputs = prompt.search_inputs(beams)
        # a search of another thread has the caches: this one goes without
        if self._compiled is None or prompt.cache is None or not self._searching.acquire(blocking=False):
            yield inputs
            return
        try:
            rows = self._filled(layers_of(inputs.pop(CACHE)), prompt.columns_read)
            forward = self._model.forward

            @functools.wraps(forward)
            def step(**given: Any) -> Any:
                cache = self._caches[rows]
                if given.get(CACHE) is not cache:  # a pass of another thread
                    return forward(**given)
                output = self._step(forward, given)
                cache.filled += 1
                if cache.filled == cache.columns:
                    self._caches[rows] = output[CACHE] = cache.grown()
                return output

            vars(self._model)["forward"] = step
            # else transformers compiles the steps of a greedy search too
            yield {**inputs, CACHE: self._caches[rows], "disable_compile": True}
        finally:
            vars(self._model).pop("forward", None)
            if self._compiled is None:
                self._caches.clear()
            self._searching.release()

    def _filled(self, layers: Sequence[tuple[Tensor, Tensor]], read: int) -> tuple[int, torch.device, torch.dtype]:
        """Put what was read of the prompts, `read` columns, into the cache for so many rows; its key."""
        keys = layers[0][0]
        rows = (len(keys), keys.device, keys.dtype)
        cache = self._caches.pop(rows, None)
        if cache is None or cache.columns <= read:
            while len(self._caches) >= MOST_CACHES:  # the one that was used longest ago
                self._caches.pop(next(iter(self._caches)))
            room = max(self._columns, 1 << read.bit_length())
            cache = StepCache(self._model.config.get_text_config(decoder=True), room)
        self._caches[rows] = cache
        cache.fill(layers, read)
        return rows

    def _step(self, forward: Callable[..., Any], given: dict[str, Any]) -> Any:
        # the prompt's last token comes as an embedding, once a search
        if self._compiled is None or given.get("input_ids") is None:
            return forward(**given)
        try:
            return self._compiled(**given)
        # before anything has run, as where there is no C++ compiler, or sizes are too many
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("answers are decoded without compiled steps from here on: %s", reason)
            self._compiled = None
            return forward(**given)


def _inner(model: LanguageModel) -> PreTrainedModel:
    """The model itself, of an adapted one that which the adapter is around: ``generate`` calls its forward pass."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
