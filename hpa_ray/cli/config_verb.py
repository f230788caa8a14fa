"""`config show` and `config keys`."""

from typing import Any

from hpa_ray.cli.main import Invocation
from hpa_ray.config import config_keys, config_tree, dump_config, load_config, type_name
from hpa_ray.errors import InputError
from hpa_ray.progress import console


def config(invocation: Invocation) -> dict[str, Any]:
    action, *words = invocation.words or ("show",)
    if action == "keys" and not words:
        for key, field in config_keys().items():
            default = "unset" if field.default is None else field.default
            console.say(f"{key}  ({type_name(field)}, default {default})")
            console.say(f"    {field.description}")
        return {"num_keys": len(config_keys())}
    if action == "show":
        resolved = load_config(words, recipe=invocation.recipe, file=invocation.file)
        for line in dump_config(resolved).rstrip().split("\n"):
            console.say(line)
        return config_tree(resolved)
    raise InputError(f"config {action}: write `hpa-ray config show [key=value ...]` or `hpa-ray config keys`")
