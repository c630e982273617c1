"""Downloads: once, checked, whole or not at all."""

import contextlib
import hashlib
import http.server
import os
import signal
import threading

import pytest

from ldm_jax.errors import UserError
from ldm_jax.pretrained.download import cached_file, download

CONTENT = bytes(range(256)) * 12_000  # three chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server():
    """A server on this machine; `server.asked` are the paths that were asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            if self.path.endswith("interrupted"):  # Ctrl-C while the file is on its way
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/models/model.ckpt")
                self.end_headers()
                return
            if not self.path.startswith("/models/"):
                self.send_error(404)
                return
            self.send_response(200)
            if "unsized" not in self.path:
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(CONTENT[: 1_500_000 if "cut" in self.path else None])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def refusal(url, sha256=SHA256):
    with pytest.raises(UserError) as caught:
        download(url, sha256)
    assert len(str(caught.value).splitlines()) == 1 and url in str(caught.value)
    return str(caught.value)


def test_a_file_is_downloaded_once(server, cache, capsys):
    url = f"{server.url}/models/model.ckpt?dl=1"
    path = download(url, SHA256.upper())
    assert path.read_bytes() == CONTENT and path.name == "model.ckpt"
    assert files_in(cache) == [path] and path == cached_file(url, SHA256)
    assert "downloading model.ckpt: 100%" in capsys.readouterr().err
    assert download(url, SHA256) == path
    assert len(server.asked) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", ["/moved/model.ckpt", "/models/unsized.ckpt"])
def test_what_servers_do(server, place):
    assert download(server.url + place, SHA256).read_bytes() == CONTENT


def test_files_of_one_name_do_not_meet(server, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"another")
    other = hashlib.sha256(b"another").hexdigest()
    one = download(f"{server.url}/models/model.ckpt", SHA256)
    two = download((tmp_path / "model.ckpt").as_uri(), other)
    assert one.read_bytes() == CONTENT and two.read_bytes() == b"another"


def test_the_wrong_file(server, cache):
    said = refusal(f"{server.url}/models/model.ckpt", "0" * 64)
    assert SHA256 in said and "0" * 64 in said
    assert not files_in(cache)


def test_a_connection_that_breaks_off(server, cache):
    url = f"{server.url}/models/cut.ckpt"
    said = refusal(url)
    assert f"ended after 1500000 of {len(CONTENT)} bytes" in said
    assert said.endswith(f"put it at {cached_file(url, SHA256)}")
    assert not files_in(cache)


def test_no_such_file(server, cache, tmp_path):
    assert "404" in refusal(f"{server.url}/none/model.ckpt")
    assert "No such file" in refusal((tmp_path / "none.ckpt").as_uri())
    assert "unknown url type" in refusal("model.ckpt")
    assert not files_in(cache)


def test_no_connection_and_a_file_put_there_by_hand(server, cache):
    server.shutdown()
    server.server_close()
    url = f"{server.url}/models/model.ckpt"
    assert "refused" in refusal(url)
    cached_file(url, SHA256).write_bytes(CONTENT)
    assert download(url, SHA256).read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_named_and_kept(server, cache):
    url = f"{server.url}/models/model.ckpt"
    path = download(url, SHA256)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=f"{path} is damaged.*{SHA256}; delete it"):
        download(url, SHA256)
    assert path.read_bytes() == CONTENT[:-1]
    path.unlink()
    assert download(url, SHA256).read_bytes() == CONTENT


def test_an_interrupted_download_leaves_nothing(server, cache):
    with pytest.raises(KeyboardInterrupt):
        download(f"{server.url}/models/interrupted", SHA256)
    assert not files_in(cache)


def test_a_cache_that_cannot_be_made(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set LDM_JAX_CACHE"):
        download(f"{server.url}/models/model.ckpt", SHA256)
    assert not server.asked


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("LDM_JAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = cached_file("https://example.org/a%20b/c%20d.pth", SHA256)
    assert os.fspath(path) == f"{tmp_path}/.cache/ldm_jax/weights/{SHA256[:12]}/c d.pth"
