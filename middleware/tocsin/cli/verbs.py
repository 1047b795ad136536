"""The commands, each imported when it runs, so that `tocsin --help` does not wait for numpy and others."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

VERBS = {  # each has a file here, with a function of that name or an `app`: the first line of its help
    "init": "Write a first configuration, from a model server's metadata or from a protocol that Tocsin ships.",
    "serve": "Relay calls between callers and a model server, and judge every response. SIGHUP reloads.",
    "record": "Relay traffic unchanged, and record the signals of responses for fit and calibrate.",
    "convert": "Make a recording of a table of your own, for fit, calibrate, evaluate and replay.",
    "fit": "Fit detectors on safe responses and write them as a bundle. Calibrate it next.",
    "score": "Score a recording once, so that calibrate and evaluate read the scores. Continues where it was "
    "interrupted.",
    "calibrate": "Calibrate thresholds on safe responses, and promise the false-alarm rate.",
    "evaluate": "Measure whether a bundle keeps its promises on data it has never seen, and how well it detects "
    "failures.",
    "promise": "Give a score that you already have a threshold with a promised false-alarm rate, without any relay.",
    "opinions": "Ask a judge for its opinions of recorded answers, for `tocsin promise`. Their texts are sent to the "
    "judge.",
    "checklist": "Have a judge write a checklist for a family of prompts, once, for people to review. The file is sent "
    "to it.",
    "watch": "Follow a log or a histogram of scores against a bundle: alarms as they come, and the evidence on the "
    "promise.",
    "select": "Select the responses of a batch to release, so that at most a share of them is bad, in expectation.",
    "sets": "Compute prediction sets of label combinations that contain the true one as often as promised.",
    "harmonise": "Score each answer by how strongly several weak sources together contradict it. Needs no labels.",
    "feedback": "Report to a running tocsin which responses were safe. Levels configured with `adapt` follow these "
    "labels.",
    "reload": "Have a running tocsin read its configuration, bundles and certificates again.",
    "top": "Watch a running tocsin in the terminal: promises, rates, the last alarms. Ctrl-C ends.",
    "replay": "Replay recorded traffic: which responses would have alarmed, and when an alert would have fired.",
    "explain": "Explain an alarm: which detectors raised it, how extreme their scores are, and which safe responses "
    "are most similar.",
    "gate": "Decide whether to promote or abort a canary, by its alarms beside the stable version's. Valid however "
    "often it is run.",
    "rules": "Write the alert rules that follow from the promises of a configuration's bundles.",
    "inject": "Add the sidecar to Kubernetes manifests: kubectl get -o yaml ... | tocsin inject - | kubectl apply -f "
    "-.",
    "attach": "Print what puts the processor before a model: Envoy's ext_proc filter and cluster, or the policy of a "
    "gateway in Kubernetes. With --check, say what an Envoy's configuration lets pass unjudged.",
    "dashboards": "Write the Grafana dashboards: the promise, for everybody, and internals, for operators.",
    "demo": "Guard a real model server on this machine: record, fit, calibrate, serve, and measure the promise.",
    "bundle": "Look at bundles, and fetch them.",
    "check": "Check what stands around models, before it guards anything.",
    "config": "Look at configurations.",
    "plan": "Compute what to do with what alarms, and what a calibration takes.",
}


class Verbs(TyperGroup):
    """A group whose commands are found by name, and imported only when they run or show their help."""

    _lists = False  # only names and summaries are wanted

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands, in the order in which users need them."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        summary = VERBS.get(cmd_name)
        if summary is None:
            return None
        return TyperCommand(cmd_name, help=summary) if self._lists else imported(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The commands with their summaries."""
        self._lists = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The commands that begin with the text."""
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
