"""YAML with nothing but plain values: what `study.yaml` and `--parameter` may hold."""

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    """Refuses tags and aliases: no type is made on request, and no text grows when it is read."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(None, None, "anchors and aliases are not read", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(None, None, "tags are not read", event.start_mark)
        return super().compose_node(parent, index)


# A date stays text.
_PlainLoader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Read YAML to numbers, text, true and false, lists and dictionaries.

    Parameters
    ----------
    text
        One document.

    Returns
    -------
    Any
        Its value; None for an empty text.

    Raises
    ------
    ValueError
        If the text is no YAML, is nested too deep, or uses tags, anchors or aliases; the message says where.
    """
    try:
        # Our loader is SafeLoader with less in it.
        return yaml.load(text, Loader=_PlainLoader)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except (yaml.YAMLError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def lay_over(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change some settings, and leave the others.

    Parameters
    ----------
    content
        From `parse_yaml`.
    changes
        Values by name; a dictionary changes some names of a section.

    Returns
    -------
    dict
        A new dictionary.
    """
    merged = dict(content)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = lay_over(inner if isinstance(inner, dict) else {}, value) if isinstance(value, dict) else value
    return merged
