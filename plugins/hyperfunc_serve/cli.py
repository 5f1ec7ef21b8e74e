"""``hyperfunc serve`` and ``hyperfunc info``. Imports nothing heavy before a command runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperfunc.errors import HyperfuncError, MissingDependencyError

__all__ = ["info", "serve"]


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=]PATH…", help="Model directories or .gguf files.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Serve a tiny model of random weights, made on the spot.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="HYPERFUNC_API_KEY", help="Key that clients must send.", show_default=False)
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    slots: Annotated[int, typer.Option(help="Answers computed at once for one model.")] = 16,
    max_waiting: Annotated[int, typer.Option(help="Answers that may wait.")] = 256,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of one answer.")] = 4096,
    model_capacity: Annotated[int, typer.Option(help="Models held in memory at once.")] = 2,
    model_bytes: Annotated[
        int | None, typer.Option(help="Bytes of weights held in memory at once.", show_default="no limit")
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Run other architectures through transformers (slower).")
    ] = False,
) -> None:
    """Serve local models over an OpenAI-compatible HTTP API."""
    try:
        import torch

        from hyperfunc_local.loading import load_model
        from hyperfunc_serve.settings import ServerSettings

        try:
            from hyperfunc_serve.demo_model import demo_model
            from hyperfunc_serve.running import run_server
        except ModuleNotFoundError as error:
            raise MissingDependencyError(error.name or "fastapi", "serve") from None
        loaders: dict[str, Any] = {}
        for given in models or []:
            name, path = _name_and_path(given)
            if not path.exists():
                raise typer.BadParameter(f"{path}: no such file or directory")
            if name in loaders:
                raise typer.BadParameter(f"two models are called {name!r}; write NAME=PATH")
            loaders[name] = lambda path=path, name=name: load_model(
                path, dtype=_dtype(torch, dtype), device=device, name=name, fallback=fallback
            )
        _dtype(torch, dtype)
        if demo:
            loaders["demo"] = demo_model
        if not loaders:
            raise typer.BadParameter("name a model directory or .gguf file, or use --demo")
        settings = ServerSettings(
            host=host,
            port=port,
            api_key=api_key,
            slots=slots,
            max_waiting=max_waiting,
            max_tokens=max_tokens,
            model_capacity=model_capacity,
            model_bytes=model_bytes,
        )
        if host not in ("127.0.0.1", "::1", "localhost") and api_key is None:
            typer.echo(f"warning: {host} can be reached by others, and no --api-key is set", err=True)
        run_server(loaders, settings)
    except HyperfuncError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def info(
    model: Annotated[Path, typer.Argument(help="Model directory or .gguf file.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Read other architectures through transformers.")
    ] = False,
) -> None:
    """Say what a local model is: family, sizes, vocabulary, memory, decoding parameters."""
    try:
        from hyperfunc_local.loading import load_model
        from hyperfunc_local.models.configuration import LlamaConfig

        loaded = load_model(model, fallback=fallback)
    except HyperfuncError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    resolved = loaded.resolve()
    facts: dict[str, Any] = {
        "name": loaded.name,
        "parameters": loaded.parameter_count,
        "bytes": loaded.bytes,
        "dtype": str(next(iter(loaded.weights.values())).dtype).removeprefix("torch."),
        "vocabulary": loaded.config.vocabulary,
        "context": loaded.config.context_length,
        "tokenizer": type(loaded.tokenizer).__name__ if loaded.tokenizer is not None else None,
        "chat_template": loaded.template is not None,
    }
    if isinstance(loaded.config, LlamaConfig):
        facts["family"] = loaded.config.family
        facts["layers"] = loaded.config.layers
        facts["hidden"] = loaded.config.hidden
        facts["heads"] = f"{loaded.config.heads} ({loaded.config.key_value_heads} key/value)"
        facts["rope"] = loaded.config.rope.kind
    facts["decoding"] = {
        name: {"value": getattr(resolved.values, name), "from": source} for name, source in resolved.source.items()
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if name == "decoding":
            for field, entry in value.items():
                typer.echo(f"{field:>20}  {entry['value']!r} ({entry['from']})")
        else:
            typer.echo(f"{name:>20}  {value:,}" if type(value) is int else f"{name:>20}  {value}")


def _name_and_path(given: str) -> tuple[str, Path]:
    name, separator, path = given.partition("=")
    if separator and name and os.sep not in name:
        return name, Path(path)
    path_only = Path(given)
    return (path_only.stem if path_only.suffix == ".gguf" else path_only.resolve().name), path_only


def _dtype(torch: Any, name: str | None) -> Any:
    if name is None:
        return None
    if name not in ("float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"--dtype {name}: expected float32, bfloat16 or float16")
    return getattr(torch, name)
