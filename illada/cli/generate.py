"""`illada generate`: text from a release folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from illada.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @app.command(epilog='Example: illada generate out/demo/release --prompt "How do I install a package?" --max-new 64')
    def generate(
        release: Annotated[Path, typer.Argument(help="A release folder.")],
        prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to answer; may be repeated.")],
        max_new: Annotated[int, typer.Option(help="Most tokens to generate.", min=1)] = 128,
        block: Annotated[int, typer.Option(help="Tokens denoised together.", min=1)] = 32,
        steps: Annotated[int, typer.Option(help="Denoising steps a block.", min=1)] = 32,
        temperature: Annotated[float, typer.Option(help="0 takes the most likely token.", min=0.0)] = 0.0,
        seed: Annotated[int, typer.Option(help="Of the noise when temperature > 0.", min=0)] = 0,
        as_json: Json = False,
    ) -> None:
        """Answer prompts: by variable-length block diffusion with low-confidence remasking, or token by token."""
        from illada.artifacts import NoProgress
        from illada.config import Generate
        from illada.sample.blocks import sample_prompts

        settings = Generate(
            max_new_tokens=max_new,
            block=block,
            steps_per_block=steps,
            temperature=temperature,
            prompts=tuple(prompt),
            seed=seed,
        )
        samples = sample_prompts(release, settings, NoProgress())
        if as_json:
            print(json.dumps(samples, ensure_ascii=False, indent=1))
            return
        for sample in samples:
            typer.secho(f"> {sample['prompt']}", bold=True)
            print(sample["text"], end="\n\n")
