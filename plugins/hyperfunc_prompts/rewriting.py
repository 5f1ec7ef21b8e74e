"""A proposal as most proposers make it: failures of a candidate, shown to a model, give a new text for one parameter.

Knows nothing of which candidate, which parameter and which failures, or of how the child is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperfunc_prompts.evidence import Mode, meta_prompt
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.reflection import Reflector
from hyperfunc_prompts.search import Search
from hyperfunc_prompts.trials import Trial

__all__ = ["Rewriter"]


@dataclass(frozen=True)
class Rewriter:
    """Makes children.

    Args:
        reflector: who writes.
        context_size: tokens of one request, estimated from bytes.
        rejected_shown: how many of the latest rejected texts the model sees.
        mode: ``"ruleset"`` keeps a text and revises the rules under it; texts that are no strings are rewritten.
    """

    reflector: Reflector
    context_size: int
    rejected_shown: int
    mode: Mode = "rewrite"

    async def child(
        self, search: Search, parent: Candidate, name: str, failures: Sequence[Trial], proposer: str, **evidence: Any
    ) -> Candidate:
        """``parent`` with a new text for ``name``, in the pool; refused already if there was one like it.

        Raises:
            UnusableProposalError, ReflectorOutageError: no text could be had; the pool is as it was.
        """
        entry, current = search.entries[name], parent.texts[name]
        mode: Mode = self.mode if isinstance(current, str) else "rewrite"
        messages, shown = meta_prompt(
            component=entry.component,
            description=entry.text.description,
            current=current,
            others={other: text for other, text in parent.texts.items() if other != name},
            failures=failures,
            turned_down=search.pool.turned_down(name, self.rejected_shown),
            name=name,
            mode=mode,
            context_size=self.context_size,
        )
        reflection = await self.reflector.new_text(
            name, current, messages, rules=mode == "ruleset", account=search.account
        )
        texts = {**parent.texts, name: reflection.value}
        child = search.pool.add(texts, (parent,), proposer, shown=shown, replies=reflection.attempts, **evidence)
        child.cost += reflection.usage
        return child
