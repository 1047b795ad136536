"""The verbs of the command, each imported when it is asked for: `tocsin --help` should not wait for numerics."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

VERBS = {  # a file beside this one each, with a function of that name or an `app`: the first line of its help
    "init": "Write a first configuration, by asking a model server or for a protocol that ships.",
    "serve": "Stand between callers and a model server, and judge every response. SIGHUP reads everything anew.",
    "record": "Relay traffic untouched and keep the signals of responses, for fit and calibrate.",
    "convert": "Make a recording of a table of your own, for fit, calibrate, evaluate and replay.",
    "fit": "Fit detectors on safe responses and write them as a bundle, still to be calibrated.",
    "score": "Score a recording once, for calibrate and evaluate to read instead of scoring again; goes on where it "
    "stopped.",
    "calibrate": "Learn from safe responses which scores to alarm at, and promise the false-alarm rate.",
    "evaluate": "Say whether a bundle keeps its promises on data it has never seen, and what it is good for.",
    "promise": "Give a score that you have already a threshold with a promised false-alarm rate, without any relay.",
    "watch": "Follow a log of scores against a bundle: alarms as they come, and the evidence on the promise.",
    "select": "Say which responses of a batch to release so that at most a share of them is bad, in expectation.",
    "sets": "Find prediction sets of label combinations, which contain the true one as often as promised.",
    "harmonise": "Score each answer by how far several weak sources together speak against it, without any labels.",
    "feedback": "Tell a running tocsin which responses were safe, so that levels configured with `adapt` follow.",
    "reload": "Have a running tocsin read its configuration, bundles and certificates anew.",
    "top": "Watch a running tocsin in the terminal: promises, rates, the last alarms. Ctrl-C ends.",
    "replay": "Say what would have happened on recorded traffic: which alarms, and when somebody would have been "
    "paged.",
    "explain": "Say why an alarm was raised: which detector objects, how far out, and which safe responses were most "
    "like it.",
    "gate": "Say whether to promote or abort a canary, by its alarms beside the stable version's, whenever you look.",
    "rules": "Write the Prometheus rules that follow from the promises of a configuration's bundles.",
    "inject": "Put the sidecar into Kubernetes manifests: kubectl get -o yaml ... | tocsin inject - | kubectl apply "
    "-f -.",
    "attach": "Print the ext_proc filter and the cluster that Envoy needs for a configuration and its mode.",
    "dashboards": "Write the Grafana dashboards: the promise, for everybody, and internals, for operators.",
    "demo": "Guard a real model server on this machine: record, fit, calibrate, serve, and measure the promise.",
    "bundle": "Look at bundles, and fetch them.",
    "check": "Check what stands around models, before it guards anything.",
    "config": "Look at configurations.",
    "plan": "Compute what to do with what alarms, and what a calibration takes.",
}


class Verbs(TyperGroup):
    """A group whose commands are found by name, and imported only where they run or tell of themselves."""

    _lists = False  # only names and summaries are wanted

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs in the order in which they are needed."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        summary = VERBS.get(cmd_name)
        if summary is None:
            return None
        return TyperCommand(cmd_name, help=summary) if self._lists else imported(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The verbs with their summaries."""
        self._lists = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The verbs that begin so."""
        self._lists = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._lists = False


def imported(verb: str) -> Any:
    """The command of one verb, from its file."""
    module = import_module(f"tocsin.cli.{verb}")
    holder = typer.Typer()
    if hasattr(module, "app"):
        holder.add_typer(module.app, name=verb)
    else:
        holder.command(verb)(getattr(module, verb))
    return typer.main.get_group(holder).commands[verb]
