"""The two bases of every declaration: a frozen value, and one that is written to disk by itself."""

from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from deepstrata.schemas.errors import DeclarationError

FORMAT_VERSION = 1

#: Words for what users meet most, in place of pydantic's, by its name for the problem.
WORDS = {
    "json_invalid": "not JSON: {error}",
    "missing": "expected a value, found none",
    "model_attributes_type": "expected a declaration, or a mapping of its fields",
    "model_type": "expected a declaration, or a mapping of its fields",
    "too_short": "expected at least {min_length}, found {actual_length}",
    "union_tag_invalid": "expected one of the kinds {expected_tags}, found {tag!r}",
    "union_tag_not_found": "expected a field {discriminator} that says what this is, found none",
}


class Declaration(BaseModel):
    """A frozen, hashable value; unknown fields are refused, defaults are validated too."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                raise ValueError(f"no field {name!r}; there are: {', '.join(cls.model_fields)}")
        return data

    def __hash__(self) -> int:
        # pydantic's own fails where a field is a dict.
        values = (getattr(self, name) for name in type(self).model_fields)
        flat = (frozenset(v.items()) if isinstance(v, dict) else v for v in values)
        return hash((type(self), *flat))


class Document(Declaration):
    """A declaration that stands alone on disk and therefore names the format it is written in."""

    format_version: int = FORMAT_VERSION

    @model_validator(mode="before")
    @classmethod
    def _refuse_the_future(cls, data: Any) -> Any:
        version = FORMAT_VERSION
        if isinstance(data, dict):
            version = data.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ValueError(
                f"format_version {version!r} is not one this deepstrata reads "
                f"(it reads {FORMAT_VERSION}); upgrade deepstrata or write the document again"
            )
        return data

    def to_json(self) -> str:
        """Return the document as indented JSON; ``from_json`` gives an equal value back."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str | None = None) -> Self:
        """Read a document back.

        Raises
        ------
        DeclarationError
            The text is not JSON, has unknown fields, or is of another format version.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise DeclarationError(explain(error, where or cls.__name__)) from None


def explain(error: ValidationError, where: str) -> str:
    """Turn a validation error into lines that name the field, what was expected and found.

    The declaration at fault is named too, where ``where`` does not already.
    """
    if error.title.lower() not in where.lower():
        where = f"{where}: {error.title}"
    lines, kinds = [], _kinds(Declaration)
    for problem in error.errors(include_url=False):
        given, context = problem["input"], problem.get("ctx", {})
        if problem["type"] == "too_short" and len(given) >= context["min_length"]:
            continue  # long enough, but for items that have lines of their own
        message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if problem["type"] in WORDS:
            message = WORDS[problem["type"]].format(**context)
        field = _field(problem["loc"], kinds)
        shown = "" if isinstance(given, dict | BaseModel) else f" (found {given!r:.80})"
        lines.append(f"{where}: {field}: {message}{shown}" if field else f"{where}: {message}")
    return "\n".join(lines)


def _kinds(base: type[Declaration]) -> set[str]:
    """Return the kinds that tell the members of unions apart."""
    found = {base.model_fields["kind"].default} if "kind" in base.model_fields else set()
    return found.union(*(_kinds(kind) for kind in base.__subclasses__()))


def _field(place: Iterable[int | str], kinds: set[str]) -> str:
    """Return the path to a field as a user would write it.

    pydantic puts the chosen member of a union between a field and what is in it. It is left out,
    or put into brackets after a number, where it says what the number stands for.
    """
    text, previous, was_kind = "", None, True
    for part in place:
        is_kind = not was_kind and part in kinds
        if is_kind:
            text += f" ({part})" if isinstance(previous, int) else ""
        elif not str(part).startswith("("):
            text += f".{part}" if text else str(part)
        previous, was_kind = part, is_kind
    return text
