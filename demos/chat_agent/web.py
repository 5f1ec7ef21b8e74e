"""``python -m demos.chat_agent.web``: a page that trains the barista live, shows the curve, and lets one talk to it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

from matplotlib.figure import Figure

from demos.chat_agent.barista import Barista, examine, open_barista, train
from hyperfunc.errors import MissingDependencyError
from hyperfunc_agents import Conversation

__all__ = ["Visit", "build_page", "training"]

STEPS = 60


class Visit:
    """What one browser tab has: a barista (untrained at first), and the conversation with it."""

    def __init__(self) -> None:
        self.barista: Barista = open_barista()
        self.begin()

    def begin(self) -> None:
        """Come in again: a new conversation; what the last one left in the memory is still known."""
        self.conversation = Conversation(self.barista.run, memory=self.barista.memory, user_id="you")

    async def say(self, message: str) -> str:
        """The barista's reply; after its goodbye the next message begins another visit."""
        if self.conversation.done:
            self.begin()
        return (await self.conversation.say(message)).message


def curve(means: list[float]) -> Figure:
    """Mean score of the population by generation."""
    figure = Figure(figsize=(6.0, 3.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(means) + 1), means, marker="o", markersize=3)
    axes.set(xlabel="generation", ylabel="mean score", xlim=(0, STEPS + 1), ylim=(0.0, 1.0))
    return figure


async def training(visit: Visit, seed: float) -> AsyncIterator[tuple[Figure, str, str]]:
    """Train a new barista; after every generation the curve and where we are, at the end a visit by a new guest."""
    means: list[float] = []
    news: asyncio.Queue[float | None] = asyncio.Queue()
    barista = open_barista(int(seed))
    task = asyncio.create_task(
        train(barista, int(seed), lambda view: news.put_nowait(view.generation.mean), steps=STEPS)
    )
    task.add_done_callback(lambda _: news.put_nowait(None))
    try:
        while (mean := await news.get()) is not None:
            means.append(mean)
            yield curve(means), f"generation {len(means)} of {STEPS}: mean score {mean:.2f}", ""
        await task
        found = await examine(barista, 20)
        status = (
            f"finished: {found.score:.2f} on new guests, {found.served:.0%} got their drink "
            f"({found.served_without_memory:.0%} without memory). Talk to it below."
        )
        visit.barista = barista
        visit.begin()
        yield curve(means), status, str(found.first)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def talk(visit: Visit, message: str, shown: list[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """One turn of the person in front of the page: an empty input box, and what is shown from now on."""
    if not message.strip():
        return "", shown
    reply = await visit.say(message)
    return "", [*shown, {"role": "user", "content": message}, {"role": "assistant", "content": reply}]


def build_page() -> Any:
    """The page.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise MissingDependencyError("gradio", "demo-web") from error
    with gradio.Blocks(title="A barista learns to chat") as page:
        gradio.Markdown(
            "# A barista learns to chat\nEvolution trains two small classifiers on simulated guests; no language "
            "model, no gradients. Try: *My favourite drink is lemonade.*, and later *Which drink should I have?*"
        )
        visit = gradio.State(Visit)
        with gradio.Row():
            with gradio.Column():
                with gradio.Row():
                    seed = gradio.Number(0, label="seed", precision=0, minimum=0)
                    start = gradio.Button("Train", variant="primary", elem_id="train")
                status = gradio.Textbox(label="progress", elem_id="status", lines=2)
                plot = gradio.Plot(label="curve", elem_id="curve")
                guest = gradio.Textbox(label="a new guest's visit", lines=10, elem_id="guest")
            with gradio.Column():
                shown = gradio.Chatbot(label="you and the barista", elem_id="chat", height=520)
                message = gradio.Textbox(label="say something", elem_id="message", submit_btn=True)
        start.click(training, [visit, seed], [plot, status, guest])
        message.submit(talk, [visit, message, shown], [message, shown])
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7860)
    build_page().launch(server_name="127.0.0.1", server_port=parser.parse_args().port)
