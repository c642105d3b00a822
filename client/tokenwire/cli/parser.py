"""Command lines on typer: plain help, errors that name the option, and a fast start.

Both command lines use this module. Options declare a `parser`, a function that raises ValueError.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from .terminal import say
from .values import WrongUsage

ARGUMENTS_PANEL = "Arguments"
OPTIONS_PANEL = "Options"


def new_app(purpose: str, *, epilog: str = "", completion: bool = False) -> typer.Typer:
    """Return an application, or a group of commands, with our help and errors."""
    return typer.Typer(
        cls=Group,
        help=purpose,
        epilog=epilog,
        add_completion=completion,
        rich_markup_mode=None,  # rich takes longer to import than a command takes to run
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_app(
    app: typer.Typer, program: str, arguments: Sequence[str], *, shared: object = None
) -> int:
    """Run one command. Return its exit code, 0 after `--help`, or 2 for wrong usage.

    Commands get `shared` as `context.obj`. Exceptions of a command are raised; typer would exit on a
    broken pipe.
    """
    command = get_command(app)
    if f"_{program}_COMPLETE".replace("-", "_").upper() in os.environ:
        command.main(
            list(arguments), prog_name=program
        )  # which completes a command line, and exits
    try:
        with command.make_context(program, list(arguments), obj=shared) as context:
            return command.invoke(context) or 0
    except typer.Exit as end:
        return end.exit_code
    except TyperException as error:
        _print_usage_error(error, program)
        return error.exit_code


def params_of(function: Callable[..., object]) -> list[Any]:
    """Return the options that the parameters of a function declare."""
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return list(get_command(app).params)


class _Help:
    """Help whose options are grouped by their panel, and whose examples keep their lines."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]  # of the command
        option.callback = _print_help
        return option

    def format_options(self, ctx: Any, formatter: Any) -> None:
        def panel(param: Any) -> str:
            if param.param_type_name == "argument":
                return ARGUMENTS_PANEL
            return getattr(param, "rich_help_panel", None) or OPTIONS_PANEL

        params = [*self.get_params(ctx)]  # type: ignore[attr-defined]  # of the command
        order = list(dict.fromkeys(map(panel, params)))
        params.sort(key=lambda param: order.index(panel(param)))
        for heading, group in groupby(params, panel):
            records = [record for param in group if (record := param.get_help_record(ctx))]
            if heading == ARGUMENTS_PANEL:  # whose names are followed by a type
                records = [(name.partition(" ")[0], text) for name, text in records]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = super().collect_usage_pieces(ctx)  # type: ignore[misc]  # of the command
        return [piece.strip("{}") for piece in pieces]  # typer's mark of what is required

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # click's signature
        epilog: str | None = self.epilog  # type: ignore[attr-defined]
        if epilog:
            formatter.write(f"\n{epilog}\n")


class Command(_Help, TyperCommand):
    """A command. WrongUsage that its function raises is reported like a wrong option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _use_parsers(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WrongUsage as error:
            _fail(ctx, str(error))


_COMMAND_NAME = re.compile(r"[a-z-]{1,20}")


class Group(_Help, TyperGroup):
    """A group of commands. An unknown command is answered with the nearest names, or all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _use_parsers(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if not ctx._protected_args:
            _fail(ctx, f"missing command: give one of {', '.join(self.list_commands(ctx))}")
        return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, names)
            commands = f"the commands are {', '.join(names)}"
            way_out = f"did you mean {' or '.join(near)}?" if near else commands
            # A longer text may be a key or a password.
            which = f"command {name!r}" if _COMMAND_NAME.fullmatch(name) else "such command"
            _fail(ctx, f"no {which}; {way_out}")
        return super().resolve_command(ctx, args)


class _OwnParser:
    """Converts the values of one option with its own parser.

    Typer converts with pydantic, whose import takes longer than that of gRPC. It has no public way to
    avoid this, so pyproject.toml allows only versions of typer with this private attribute.
    """

    def __init__(self, parser: Callable[[Any], Any] | None) -> None:
        self._parser = parser

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        is_default = not isinstance(value, str | list | tuple)
        if self._parser is None or is_default:
            return value
        try:
            return tuple(map(self._parser, value)) if is_list else self._parser(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None


def _print_help(ctx: Any, _param: Any, value: bool) -> None:
    """Print the help. Unlike typer, do not flush: the program reports what cannot be written."""
    if value and not ctx.resilient_parsing:
        sys.stdout.write(ctx.get_help() + "\n")
        raise typer.Exit


def _use_parsers(params: Sequence[Any]) -> None:
    for param in params:
        param._runtime_param = _OwnParser(param.type_descriptor.parameter_info.parser)


def _fail(ctx: Any, problem: str) -> NoReturn:
    ctx.fail(problem)
    raise AssertionError  # `fail` raises


def _print_usage_error(error: TyperException, program: str) -> None:
    """Print the usage of the command, where to find help, and the error in one line."""
    ctx: Any = getattr(error, "ctx", None)
    path = program if ctx is None else ctx.command_path
    if ctx is not None:
        for line in ctx.get_usage().splitlines():
            say(line)
        say(f"Try '{path} --help' for help.")
    say(f"{path}: error: {_problem(error)}")


def _problem(error: Any) -> str:
    """Return an error of typer in the style of our own: `--timeout: '0' is not a number ...`."""
    if isinstance(error, typer.BadParameter) and error.param is not None:
        if error.message:
            return f"{_name(error.param)}: {error.message}"
        return f"missing {error.param.param_type_name} {_name(error.param)}"
    if hasattr(error, "possibilities"):  # an option that does not exist
        near = f"; did you mean {' or '.join(error.possibilities)}?" if error.possibilities else ""
        return f"no option {error.option_name}{near}"
    message: str = error.format_message().rstrip(".")
    if message.lower().startswith("got unexpected extra argument"):
        # Not what they are: one may be a key or a password.
        return "too many arguments; text with spaces needs quotes"
    return message[:1].lower() + message[1:]


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return str(max(param.opts, key=len))
