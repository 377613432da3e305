"""The harness's model around ours, and a run of the harness that leaves everything as it was."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
from collections.abc import Generator, Mapping
from typing import Any

from multilora.errors import InputError
from multilora.evaluation.saved import BatchSize

_WITHOUT_CUDA = 16  # "auto" tries sizes until memory is out, which only CUDA says without the process being killed


class Runner:
    """A model with its tokenizer, ready for the harness.

    Args:
        model: a causal language model of transformers, or a PEFT model around one, on its device.
        tokenizer: the model's; a copy of it is used, as the harness gives it a padding token.
        batch_size: rows at a time; auto: on CUDA as many as fit, and 16 elsewhere.
        max_length: tokens of the context.

    Raises:
        InputError: the tokenizer has no eos token, or puts one behind every text.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: BatchSize, max_length: int) -> None:
        self.max_length = max_length
        self._model, self._tokenizer = model, copy.deepcopy(tokenizer)
        self._tokenizer.model_max_length = sys.maxsize  # long texts are ours to count: it would warn of each
        self._batch_size = _WITHOUT_CUDA if batch_size == "auto" and model.device.type != "cuda" else batch_size
        if tokenizer.eos_token_id is None:
            raise InputError(
                "model: the tokenizer has no eos token, which ends a generated answer; set `eos_token` in the model "
                "folder's tokenizer_config.json"
            )
        self.lm = self._harness_model(max_length)
        if self.lm.tok_encode("a")[-1] == tokenizer.eos_token_id:
            raise InputError(
                "model: the tokenizer puts its eos token behind every text, so the harness would score the wrong "
                "tokens; set `add_eos_token` to false in the model folder's tokenizer_config.json"
            )

    def run(self, tasks: Mapping[str, Any], needed: int, **options: Any) -> Any:
        """Run the harness on its tasks, with each row's answer logged.

        Args:
            tasks: the harness's tasks by name.
            needed: tokens of context that the longest request needs; more than the model's context is truncated.
            options: further arguments of `lm_eval.evaluator.evaluate`.
        """
        from lm_eval.evaluator import evaluate

        # Trying out batch sizes, the harness fills the whole context, which may be a thousand times what is needed.
        lm = self._harness_model(max(1, min(self.max_length, needed)))
        groups = options.pop("groups", {})
        with quiet():
            return evaluate(
                lm, {"tasks": dict(tasks), "groups": groups}, bootstrap_iters=0, log_samples=True, **options
            )

    def _harness_model(self, max_length: int) -> Any:
        from lm_eval.models.huggingface import HFLM

        build: Any = HFLM  # whose registration hides its arguments from type checkers
        with quiet(), _tied_weights_left_alone(self._model):
            return build(
                pretrained=self._model,
                tokenizer=self._tokenizer,
                backend="causal",
                max_length=max_length,
                batch_size=self._batch_size,
                softmax_dtype="float32",  # in bf16, choices would often be equally likely
            )


@contextlib.contextmanager
def modes_as_before(model: Any) -> Generator[None]:
    """The harness puts the model into eval mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """No prints and notices of the harness. Its progress bars are for a terminal only."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.ExitStack() as stack:
            if not sys.stderr.isatty():
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _tied_weights_left_alone(model: Any) -> Generator[None]:
    """The harness ties the weights of a model that it is given. Ours is whole; and where an adapter holds a tied layer
    (modules_to_save), tying fails or would undo what was trained.
    """
    model.tie_weights = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del model.tie_weights
