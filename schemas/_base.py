"""The two bases of every declaration: a frozen value, and one that is written to disk by itself."""

from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from deepstrata.schemas.errors import DeclarationError

FORMAT_VERSION = 1

T = TypeVar("T", bound=BaseModel)


class Declaration(BaseModel):
    """A frozen, hashable value; unknown fields are refused, defaults are validated too."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Document(Declaration):
    """A declaration that stands alone on disk and therefore names the format it is written in."""

    format_version: int = FORMAT_VERSION

    @model_validator(mode="before")
    @classmethod
    def _refuse_the_future(cls, data: Any) -> Any:
        version = data.get("format_version", FORMAT_VERSION) if isinstance(data, dict) else 1
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
    """Turn a validation error into lines that name the field, the value and what was expected."""
    lines = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = problem.get("input")
        shown = "" if isinstance(given, dict | BaseModel) else f" (found {given!r:.80})"
        lines.append(f"{where}: {field}: {message}{shown}" if field else f"{where}: {message}")
    return "\n".join(lines)


def declare(kind: type[T], where: str, **fields: Any) -> T:
    """Build a declaration, with pydantic's errors put into our words."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise DeclarationError(explain(error, where)) from None
