"""What a stream file says of its task: a name, or a table of the name and the task's settings."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from bhpeft.errors import ConfigError
from bhpeft.section import Section
from bhpeft.tasks import Task, task


class Predicted(Section):
    """What is predicted: a task's name, or a table of its name and settings."""

    name: str = "classification"
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_settings(cls, content: Any) -> Any:
        """Take a bare name, and every other key of the table as a setting of the task."""
        if isinstance(content, str):
            return {"name": content}
        if not isinstance(content, dict) or "settings" in content:
            return content
        settings = {key: value for key, value in content.items() if key != "name"}
        return {**{key: content[key] for key in content.keys() & {"name"}}, "settings": settings}

    @property
    def value(self) -> Task:
        """Return the task."""
        return task(self.name, self.settings)

    @model_validator(mode="after")
    def _is_known(self) -> Predicted:
        try:
            _ = self.value
        except ConfigError as problem:
            raise ValueError(str(problem)) from problem
        return self
