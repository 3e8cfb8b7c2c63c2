"""What the settings of all tasks share: they are frozen, and a key that they do not know is refused by name."""

from typing import Annotated, Any

from pydantic import AllowInfNan, BaseModel, ConfigDict, Strict, model_validator

Number = Annotated[float, Strict(), AllowInfNan(False)]


class Settings(BaseModel):
    """Frozen settings; an unknown key is a ValueError that lists the valid ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        unknown = [key for key in data if key not in cls.model_fields]
        if unknown:
            raise ValueError(
                f"unknown {cls.__name__} setting {unknown[0]!r} = {data[unknown[0]]!r}; "
                f"the settings are: {', '.join(cls.model_fields)}"
            )
        return data
