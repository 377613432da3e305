"""`multilora generate`: what models answer to prompts, side by side, token by token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TextStreamer

from multilora.data.encoder import PromptCompletionEncoder
from multilora.errors import InputError
from multilora.evaluation.evaluated_model import EvaluatedModel
from multilora.evaluation.long_prompts import context_length
from multilora.storage.folders import make_writable, write_text
from multilora.tasks.rows import UnusableRowError, json_lines, near_file
from multilora.terminal import quiet_libraries


@dataclass(frozen=True)
class GenerateOptions:
    """How answers are generated.

    Attributes:
        recipe: names an adapter's base model; None: the adapter does.
        base: the models without their adapters, too.
        merged: the models with their adapters merged, too.
        chat: a prompt is what a user says, in the tokenizer's chat template.
        max_new_tokens: of an answer, at most.
        temperature: 0: the likeliest token each time.
        top_p: with a temperature: of the likeliest tokens whose probabilities sum up to this.
        seed: of the sampling; every answer to a prompt begins with the same random numbers.
        out: JSON lines to write; None: none.
        trust_remote_code: run code that comes with a model.
    """

    recipe: Path | None = None
    base: bool = False
    merged: bool = False
    chat: bool = False
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    out: Path | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Generated:
    """An answer.

    Attributes:
        prompt: as it was given.
        model: who answers: the target, and whether it is its base or merged.
        text: the answer.
        tokens: how many were generated, the end-of-sequence token included.
        ended: by an end-of-sequence token, and not because it was long enough.
    """

    prompt: str
    model: str
    text: str
    tokens: int
    ended: bool


class GenerationDisplay(Protocol):
    """Gets the answers as they come."""

    def note(self, text: str) -> None:
        """A line about what happens."""
        ...

    def prompt(self, number: int, count: int, text: str) -> None:
        """Prompt `number` of `count` (from 1) is answered next."""
        ...

    def model(self, name: str) -> None:
        """This model answers next."""
        ...

    def piece(self, text: str) -> None:
        """More of its answer."""
        ...

    def end(self, answer: Generated) -> None:
        """The answer is whole."""
        ...


@dataclass(frozen=True)
class _Speaker:
    name: str
    model: Any
    tokenizer: Any
    without_adapter: bool = False

    def ready(self) -> AbstractContextManager[Any]:
        return self.model.disable_adapter() if self.without_adapter else nullcontext()


@dataclass(frozen=True)
class _Question:
    """A prompt as a speaker's model reads it, and how many tokens its context has room for behind it."""

    ids: list[int]
    room: int


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """The prompts of a command: those given, then those of a file.

    Args:
        given: texts.
        file: JSON lines of objects with a field `prompt` (.jsonl); any other file: a prompt per line.

    Raises:
        InputError: the file cannot be read; there is no prompt, or an empty one.
    """
    prompts = list(given)
    if file is not None:
        try:
            prompts += _of_json(file) if file.suffix == ".jsonl" else file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"--file: cannot read {str(file)!r}: {error.strerror}{near_file(file)}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"--file: {str(file)!r} is no UTF-8 text ({error.reason}); convert it") from error
    if not prompts:
        raise InputError("no prompt: give one by --prompt TEXT, or a file of them by --file FILE")
    if "" in prompts:
        raise InputError(f"prompt {prompts.index('') + 1} is empty; leave it out")
    return prompts


def generate(
    targets: Sequence[str], prompts: Sequence[str], options: GenerateOptions, display: GenerationDisplay
) -> list[Generated]:
    """Let models answer prompts, one after the other.

    Args:
        targets: run folders, folders with an adapter or a model, or models' ids on the hub.
        prompts: texts, encoded as training encodes them.
        options: how.
        display: receives the answers as they are generated.

    Raises:
        InputError: as `EvaluatedModel.find` and `EvaluatedModel.load`; an option is out of range; a prompt leaves no
            room for an answer.
    """
    _check(options)
    if options.out is not None:
        _check_out(options.out)
    subjects = [EvaluatedModel.find(target, options.recipe, False, options.trust_remote_code) for target in targets]
    if (options.base or options.merged) and not any(subject.adapter for subject in subjects):
        name = "--base" if options.base else "--merged"
        raise InputError(f"{name} has no effect: {', '.join(map(repr, targets))} has no adapter")
    answers: list[Generated] = []
    with quiet_libraries(), torch.no_grad():
        speakers = [one for t, s in zip(targets, subjects, strict=True) for one in _speakers(t, s, options, display)]
        questions = [[_question(speaker, prompt, options) for speaker in speakers] for prompt in prompts]
        for number, (prompt, asked) in enumerate(zip(prompts, questions, strict=True), start=1):
            display.prompt(number, len(prompts), prompt)
            for speaker, question in zip(speakers, asked, strict=True):
                display.model(speaker.name)
                answers.append(_answer(speaker, prompt, question, options, display.piece))
                display.end(answers[-1])
    if options.out is not None:
        lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        write_text(options.out, "".join(lines))
    return answers


def _check(options: GenerateOptions) -> None:
    if options.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens must be at least 1; got {options.max_new_tokens}")
    if options.temperature < 0:
        raise InputError(f"--temperature must be 0 or more; got {options.temperature:g}")
    if not 0 < options.top_p <= 1:
        raise InputError(f"--top-p must be above 0 and at most 1; got {options.top_p:g}")
    if options.top_p < 1 and options.temperature == 0:
        raise InputError("--top-p has no effect without a temperature; set --temperature, for example to 1")


def _check_out(out: Path) -> None:
    """Before models are loaded: answers that cannot be written are lost."""
    if out.is_dir():
        raise InputError(f"--out: cannot write {str(out)!r}: it is a folder; name a file in it")
    make_writable(out.parent, f"--out: cannot write {str(out)!r}")


def _speakers(
    target: str, subject: EvaluatedModel, options: GenerateOptions, display: GenerationDisplay
) -> Iterator[_Speaker]:
    display.note(f"loading {subject.source.location}" + (f" with {subject.adapter}" if subject.adapter else ""))
    model, tokenizer = subject.load()
    if subject.adapter is not None and options.base:
        yield _Speaker(f"{target} (base)", model, tokenizer, without_adapter=True)
    yield _Speaker(target, model, tokenizer)
    if subject.adapter is not None and options.merged:
        # Merging leaves no adapter to answer by; and into packed weights it would lose what was trained.
        another, _ = subject.load(dequantized=True)
        yield _Speaker(f"{target} (merged)", another.merge_and_unload().eval(), tokenizer)


def _answer(
    speaker: _Speaker, prompt: str, question: _Question, options: GenerateOptions, piece: Callable[[str], None]
) -> Generated:
    ids = question.ids
    tokens = torch.tensor([ids], device=speaker.model.device)
    sampling = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    torch.manual_seed(options.seed)
    with speaker.ready():
        made = speaker.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=min(options.max_new_tokens, question.room),
            streamer=_Pieces(speaker.tokenizer, piece),
            pad_token_id=speaker.tokenizer.pad_token_id or speaker.tokenizer.eos_token_id,
            **(sampling if options.temperature else greedy),
        )
    new = made[0, len(ids) :].tolist()
    text = speaker.tokenizer.decode(new, skip_special_tokens=True)
    ends = speaker.model.generation_config.eos_token_id
    ended = bool(new) and new[-1] in (ends if isinstance(ends, list) else [ends])
    return Generated(prompt, speaker.name, text, len(new), ended)


def _question(speaker: _Speaker, prompt: str, options: GenerateOptions) -> _Question:
    ids = _encoded(speaker.tokenizer, prompt, options.chat)
    room = context_length(speaker.model.config, speaker.tokenizer, None) - len(ids)
    if room < 1:
        raise InputError(f"{speaker.name}: a prompt of {len(ids):,} tokens fills the model's context; shorten it")
    return _Question(ids, room)


def _encoded(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    if not chat:
        return PromptCompletionEncoder(tokenizer).prompts([prompt])[0]
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("--chat: the tokenizer has no chat template; leave --chat out")
    said = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class _Pieces(TextStreamer):
    """Tells the text as soon as it is certain: a character may be several tokens."""

    def __init__(self, tokenizer: Any, piece: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._piece = piece

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._piece(text)


def _of_json(file: Path) -> list[str]:
    prompts: list[str] = []
    for number, row in json_lines(file):
        if isinstance(row, UnusableRowError):
            raise InputError(f"--file: {file}: line {number}: {row}")
        prompt = row.get("prompt")
        if not isinstance(prompt, str):
            raise InputError(f"--file: {file}: line {number} has no field 'prompt' with a text; it has {sorted(row)}")
        prompts.append(prompt)
    return prompts
