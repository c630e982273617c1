"""What C++ says about a lost process is one line; all else that it says is passed on."""

from ldm_jax.commands.native_errors import LOST, passed_on

WARNING = b"W1129 19:06:20.064710    7116 cpu_executable.cc:20] a warning\n"
AGENT = [
    b"E1129 19:06:20.065043    7127 coordination_service_agent.cc:289] Polled an error\n",
    b"of several lines\n",
]
FATAL = [
    b"F1129 19:06:20.065254    7127 client.h:80] Terminating process because another died\n",
    b"*** Check failure stack trace: ***\n",
    b"    @     0x7f6ead8ee709  absl::lts_20260107::internal_any_invocable::LocalInvoker<>()\n",
]


def test_a_lost_process_is_one_line():
    said = list(passed_on([WARNING, *AGENT, *FATAL]))
    assert said == [WARNING, f"error: {LOST}\n".encode()]


def test_all_else_is_passed_on():
    lines = [b"plain\n", WARNING, b"goes on\n", b"F1129 19:06:20.0 1 other.cc:1] a bug\n", b" @ \n"]
    assert list(passed_on(lines)) == lines
    assert list(passed_on([*AGENT, WARNING])) == [WARNING]
