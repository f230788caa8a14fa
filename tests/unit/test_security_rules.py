"""The rules that keep files, names and servers from doing harm, and secrets from being told, one by one."""

import ast
import csv
import html
import io
import os
import pickle
import shlex
import socket
import stat
import string
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hpa_ray
from hpa_ray import redact, storage
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.evaluate_verb import trained_with
from hpa_ray.cli.main import main
from hpa_ray.errors import InputError
from hpa_ray.explore.opened import source_names
from hpa_ray.fetch.folder import source_of
from hpa_ray.model.weights import parse
from hpa_ray.progress import Console
from hpa_ray.schema import are_ids
from hpa_ray.shards import SourceEntry
from hpa_ray.storage import read_arrow, read_parquet, shown
from hpa_ray.storage.web_rules import check_redirect
from hpa_ray.synth import write_atlas

PACKAGE = Path(hpa_ray.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "jobs").glob("*.py")])


# ---- what the code calls

ALLOWED = {
    ("cli/main.py", "importlib.import_module"): "modules of the verbs, from a table of ours",
    ("fetch/kaggle.py", "importlib.import_module"): "kagglehub, by a name that stands there",
    ("model/timm_models.py", "importlib.import_module"): "timm, by a name that stands there",
    ("train/track.py", "importlib.import_module"): "mlflow and wandb, by names that stand there",
    ("doctor/machine.py", "subprocess.run"): "nvidia-smi with options that stand there",
    ("doctor/child.py", "subprocess.Popen"): "this Python with a module of ours; questions come by its standard input",
    ("storage/plain_tables.py", "pa.ipc.open_file"): "after the names of types were put out of sight",
    ("storage/plain_tables.py", "pq.read_table"): "after the names of types were put out of sight",
    ("shards/format.py", "pa.ipc.open_file"): "a buffer that was written one line before",
    ("doctor/nodes.py", "socket.create_server"): "for seconds, to see whether nodes reach the driver; takes no bytes",
}
"""Calls that could do harm and are needed, with what keeps them from it."""
HARMFUL = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "webbrowser.open"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "np.load", "np.fromfile", "torch.hub.load"),
    *("importlib.import_module", "runpy.run_path", "runpy.run_module", "shutil.unpack_archive", "torch.jit.load"),
    *("socket.create_server", "ThreadingHTTPServer", "HTTPServer", "ThreadingTCPServer"),
    *("pa.ipc.open_file", "pa.ipc.open_stream", "pq.read_table", "pq.ParquetFile", "pd.read_pickle", "pd.read_hdf"),
}
HARMFUL_STARTS = ("subprocess.", "os.exec", "os.spawn", "pickle.", "cloudpickle.", "joblib.", "marshal.", "shelve.")
HARMFUL_ENDS = (".extractall", ".extract", ".bind", ".listen")
UNWANTED = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "tarfile", "imp", "runpy", "code", "ctypes"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in SOURCES:
        name = str(path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else path.relative_to(PACKAGE.parent))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield name, ast.unparse(node.func), node


def test_nothing_that_could_run_a_file_is_called_but_what_has_a_reason() -> None:
    found = {
        (file, call)
        for file, call, _ in calls()
        if call in HARMFUL or call.startswith(HARMFUL_STARTS) or call.endswith(HARMFUL_ENDS)
    }
    assert found - ALLOWED.keys() == set()
    present = {file for file, _ in ALLOWED if (PACKAGE / file).exists()}
    assert {key for key in ALLOWED if key[0] in present} <= found, "a reason for what is called no more"


def test_torch_loads_tensors_only_and_no_shell_is_started() -> None:
    loads = [node for _, call, node in calls() if call == "torch.load"]
    assert len(loads) == 2
    for node in loads:
        assert {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}["weights_only"] == "True"
    for file, _, node in calls():
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert words.get("shell", "False") == "False", file
        assert words.get("allow_pickle", "False") == "False", file
        assert words.get("trust_remote_code", "False") == "False", file


def test_of_modules_that_unpickle_or_unpack_only_errors_are_imported() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & UNWANTED, path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNWANTED:
                assert {alias.name for alias in node.names} <= {"UnpicklingError", "TarError"}, path


def test_texts_reach_the_screen_by_two_doors_only() -> None:
    """Where secrets and control characters are taken out."""
    doors = {
        file
        for file, call, _ in calls()
        if call == "print" or call.endswith((".print_exc", ".stdout.write", ".stderr.write", "logging.basicConfig"))
    }
    assert doors == {"progress/__init__.py", "cli/main.py"}


def test_a_job_is_the_command_and_nothing_else() -> None:
    for path in (PACKAGE.parent / "jobs").glob("*.py"):
        *before, last = ast.parse(path.read_text()).body
        assert [type(node) for node in before] == [ast.Expr, ast.Import, ast.ImportFrom]
        assert ast.unparse(last) == (
            f"if __name__ == '__main__':\n    sys.exit(main(['{path.stem}', *sys.argv[1:]], json_line=True))"
        )


# ---- files that hold more than they should


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


class Registered(pa.ExtensionType):  # type: ignore[misc]
    """As a library might register it: what a file says of the type is unpickled."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "test.registered")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickle.dumps(Bomb(Path(self.path)))

    path = ""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Registered":
        pickle.loads(serialized)
        return cls()


def test_types_that_arrow_files_bring_along_are_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registered, "path", str(tmp_path / "proof"))
    table = pa.table({"image_id": pa.ExtensionArray.from_storage(Registered(), pa.array(["a", "b"]))})
    arrow, parquet = pa.BufferOutputStream(), pa.BufferOutputStream()
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, parquet)
    contents = [sink.getvalue().to_pybytes() for sink in (arrow, parquet)]
    pa.register_extension_type(Registered())
    try:
        for content, read in zip(contents, (read_arrow, read_parquet), strict=True):
            found = read(content)
            assert found["image_id"].type == pa.string()
            assert found.to_pylist() == [{"image_id": "a"}, {"image_id": "b"}]
        assert not (tmp_path / "proof").exists()
        pa.ipc.open_file(contents[0])
        assert (tmp_path / "proof").exists(), "without care it runs"
    finally:
        pa.unregister_extension_type("test.registered")


def test_an_archive_that_grows_is_refused_before_it_does(tmp_path: Path) -> None:
    """torch.save packs nothing, so a zip of weights that is packed, or whose entries share bytes, is none of its."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2**20)}, buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert len(packed.getvalue()) < 2**20
    with pytest.raises(InputError, match="would grow"):
        parse(packed.getvalue(), "model.weights = x")
    storage.write_bytes(f"{tmp_path}/checkpoints/epoch-0001.pt", packed.getvalue())
    with pytest.raises(InputError, match="would grow"):
        RunFolder(str(tmp_path)).load_checkpoint()


def test_weights_that_hold_themselves_end() -> None:
    state: dict[str, Any] = {"a": torch.zeros(1)}
    state["model"] = state
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with pytest.raises(InputError, match="no weights by name"):
        parse(buffer.getvalue(), "model.weights = x")


def test_the_configuration_in_a_model_file_runs_nothing_and_ends(tmp_path: Path) -> None:
    grows = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
    )
    proof = tmp_path / "proof"
    texts = [
        f"!!python/object/apply:os.mkdir [{proof}]",
        f"run: {{name: !!python/object/apply:os.mkdir [{proof}]}}",
        f"!!python/object/new:os.mkdir [{proof}]",
        grows + "train: {epochs: *m}\n",
        "a: &a [*a]",
        "data: {fold: 2001-99-99}",
        "x: !!int y",
        "[" * 3000,
        "run: {name: ../../x}",
        "- 1",
    ]
    for text in texts:
        with pytest.raises(InputError, match="its configuration is not one of this version") as caught:
            trained_with("run.safetensors", text)
        assert len(str(caught.value)) < 300
    assert not proof.exists()


# ---- Ids

EVIL = [
    *("", ".", "..", "../a", "a/../b", "/etc/passwd", "a\0b", "a\n", "a\nb", "\x1b[2Ja", "a\r", "a\u202eb", "a\u2028b"),
    *("<script>alert(1)</script>", "a'b", 'a"b', "a,b", "a;b", "a b", "a|b", "a`id`", "$(id)", "a$b", "a%s", "{id}"),
    *("=1+1", "+1", "-1", "@a", "\t=1", "\uff1d1", "-rf", "--help", "~root", ".hidden", "a\\b", "C:\\a", "a:b", "é"),
    "a" * 201,
]  # fmt: skip


def test_evil_ids_are_none() -> None:
    assert not are_ids(pa.array(EVIL)).any()
    assert are_ids(pa.array([None, "a", "1_-.", "a" * 200])).tolist() == [False, True, True, True]


@given(st.text(st.sampled_from(string.printable + "\0\x1b\u202eé"), max_size=12))
def test_what_can_be_an_id_is_harmless_wherever_it_goes(text: str) -> None:
    if not are_ids(pa.array([text]))[0]:
        return
    assert Path("/folder", f"{text}_red.png").resolve().parent == Path("/folder")
    assert shlex.quote(text) == text
    assert html.escape(text) == text
    assert text.isprintable()
    assert next(csv.reader([f"{text},0"])) == [text, "0"]
    assert text[0] in string.ascii_letters + string.digits, "no formula, no option, no hidden file"


def test_names_of_sources_hold_no_password() -> None:
    uris = ["https://me:word@host/train?sig=x", "https://me:word@host", "s3://bucket/train"]
    assert [SourceEntry.of(uri, 0, (), ()).name for uri in uris] == ["host/train", "/host", "bucket/train"]
    assert source_names(uris) == ["host/train", "/host", "bucket/train"]


# ---- secrets

PASSWORD, SIGNATURE = "canary-password", "canary+signature/0=="
SECRET_TEXTS = [
    f"https://me:{PASSWORD}@host/a?sig={SIGNATURE}: no such file",
    f"https://{PASSWORD}@host/a",
    f"https://me:{PASSWORD}%20x@host:80/a.png, and s3://KEY:{PASSWORD}@bucket/x",
    f"(https://host/a?X-Amz-Signature={SIGNATURE}&X-Amz-Expires=3) - do it",
    f"zip://a.png::https://me:{PASSWORD}@host/a.zip?x={SIGNATURE}",
    f"HTTPConnectionPool(host='h', port=1): Max retries exceeded with url: /a?token={SIGNATURE} (Caused by x)",
    f"url: /a?b=1&AWSAccessKeyId=x&Signature={SIGNATURE}",
    f"--storage.secret_key={PASSWORD}: unrecognized",
    f"command: train storage.session_token={PASSWORD} run.name=x",
    f"data.extra = ['https://me:{PASSWORD}@host/x@labels.csv', 'b']",
    f'{{"images": "ftp://me:{PASSWORD}@host/x"}}',
    f"abfs://me:{PASSWORD}@account.dfs.core.windows.net/x?sig={SIGNATURE}",
]
PLAIN_TEXTS = [
    *("s3://bucket/folder?region=eu-north-1", "s3://bucket/a@s3://b/t.csv", "/data/what?/a@b?x=1", "memory://a?b=c"),
    *(
        "set storage.access_key and storage.secret_key, AWS_ACCESS_KEY_ID",
        "abfs://files@account.dfs.core.windows.net/x",
    ),
    *("https://host/{id}_{color}.jpg?size=2&id={id}", "a = b ? c : d", "file:///a?b=c", "sftp://me@host/x"),
    "storage.access_key and storage.secret_key belong together: give both or neither",
]


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_addresses_are_told_without_secrets(text: str) -> None:
    told = redact.redact(text)
    assert PASSWORD not in told
    assert SIGNATURE.rstrip("=") not in told
    assert redact.redact(told) == told
    assert told.count("host") == text.count("host")
    for ending in (": no such file", " - do it", " (Caused by x)", " run.name=x"):
        assert told.endswith(ending) == text.endswith(ending)


@pytest.mark.parametrize("text", PLAIN_TEXTS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact.redact(text) == text


@given(
    scheme=st.sampled_from(["http", "https", "ftp", "s3", "abfs", "x+y.z"]),
    secret=st.text(st.sampled_from(string.ascii_letters + string.digits + "-._~!$&*+,;=:%@"), min_size=12, max_size=40),
    around=st.sampled_from(["{}", "({}): no", "'{}'", 'a "{}".', "x={}", "<{}>"]),
)
def test_any_password_and_any_signature_go(scheme: str, secret: str, around: str) -> None:
    secret = f"SECRET{secret}SECRET"
    for address in (f"{scheme}://me:{secret}@host/a", f"{scheme}://host/a?sig={secret}", f"{scheme}://host/a?{secret}"):
        told = redact.redact(around.format(address))
        assert secret not in told
        assert "SECRET" not in told.replace(secret, "")
        assert "host/a" in told


def test_values_of_the_settings_and_of_the_environment_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_hidden", frozenset())
    for name in redact.VARIABLES:
        monkeypatch.setenv(name, f"canary-of-{name}")
        assert redact.redact(f"a canary-of-{name} b") == "a ... b"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    before = storage.settings()
    storage.configure(storage.Settings(access_key="AKIACANARY", secret_key="canary/secret", session_token="short"))
    storage.configure(before)
    told = redact.redacted({"a": ["canary/secret", ("AKIACANARY", 1)], "b": "a short test", "c": None})
    assert told == {"a": ["...", ["...", 1]], "b": "a short test", "c": None}


def test_a_mistake_holds_no_secret_from_its_birth() -> None:
    mistake = InputError(*SECRET_TEXTS)
    for text in (str(mistake), repr(mistake), "".join(mistake.problems), repr(pickle.loads(pickle.dumps(mistake)))):
        assert PASSWORD not in text
        assert SIGNATURE not in text


def test_the_screen_the_log_and_files_of_json_hold_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Console()
    with screen.logging() as log:
        for text in SECRET_TEXTS:
            screen.say(text)
    storage.write_json(f"{tmp_path}/a.json", {"texts": SECRET_TEXTS})
    for text in (capsys.readouterr().out, "\n".join(log), (tmp_path / "a.json").read_text()):
        assert PASSWORD not in text
        assert SIGNATURE not in text


def test_a_fault_of_the_program_is_told_without_secrets_and_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(invocation: Any) -> None:
        try:
            raise OSError(f"https://me:{PASSWORD}@host/a?sig={SIGNATURE}")
        except OSError as error:
            raise RuntimeError("a\x1b[2Jb\u202e") from error

    monkeypatch.setattr("hpa_ray.cli.data_verbs.synth", fail)
    assert main(["synth"]) == 1
    told = capsys.readouterr().err
    assert "RuntimeError: a\\x1b[2Jb\\u202e" in told
    assert "OSError: https://host/a" in told
    assert PASSWORD not in told
    assert SIGNATURE not in told
    assert "\x1b" not in told


def test_a_fetch_knows_its_source_without_the_token(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("Id,Target\n")
    one, other = (source_of(f"{tmp_path}/labels.csv", f"https://h/{{id}}?token={token}") for token in (SIGNATURE, "b"))
    assert one["url"] == other["url"] == "https://h/{id}"
    assert one != other
    assert SIGNATURE not in str(one)
    assert source_of(f"{tmp_path}/labels.csv", "https://h/{id}").keys() == {"labels_sha256", "url"}


def test_addresses_within_each_other_are_shown_without_secrets() -> None:
    uri = f"simplecache::zip://a.csv::https://me:{PASSWORD}@host/a.zip?sig={SIGNATURE}"
    assert shown(uri) == "simplecache::zip://a.csv::https://host/a.zip"
    assert shown("/a::b?c@d") == "/a::b?c@d"


# ---- redirects

ADDRESSES = {
    **{"hpa.org": "93.184.216.34", "cdn.org": "2606:2800:220:1::1", "office": "10.1.2.3", "office6": "fd00::5"},
    **{
        "localhost": "127.0.0.1",
        "evil.org": "169.254.169.254",
        "mapped.org": "::ffff:127.0.0.1",
        "zero.org": "0.0.0.0",
    },
    **{"shared.org": "100.64.0.1", "linked.org": "fe80::1%eth0", "2130706433": "127.0.0.1", "169.254.169.254": ""},
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: None) -> list[Any]:
        if host not in ADDRESSES:
            raise socket.gaierror
        return [(socket.AF_INET, None, 0, "", (ADDRESSES[host] or host, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("https://hpa.org/a", "https://cdn.org/b", ""),
        ("http://hpa.org/a", "https://cdn.org/b", ""),
        ("http://hpa.org/a", "http://not.known/b", ""),
        ("http://office/a", "http://office6/b", ""),
        ("http://office/a", "http://hpa.org/b", ""),
        ("http://localhost/a", "http://localhost:81/b", ""),
        ("https://hpa.org/a", "http://hpa.org/a", "from https to http"),
        ("http://hpa.org/a", "file:///etc/passwd", "no web address"),
        ("http://hpa.org/a", "ftp://hpa.org/a", "no web address"),
        ("http://hpa.org/a", "http:///a", "no web address"),
        ("http://hpa.org/a", "http://localhost/a", "an inner address"),
        ("http://hpa.org/a", "http://2130706433/a", "an inner address"),
        ("http://hpa.org/a", "http://mapped.org/a", "an inner address"),
        ("http://hpa.org/a", "http://zero.org/a", "an inner address"),
        ("http://hpa.org/a", "http://office/a", "an inner address"),
        ("http://hpa.org/a", "http://office6/a", "an inner address"),
        ("http://hpa.org/a", "http://shared.org/a", "an inner address"),
        ("http://office/a", "http://localhost/a", "an inner address"),
        ("http://localhost/a", "http://169.254.169.254/latest/meta-data", "an inner address"),
        ("http://localhost/a", "http://evil.org/latest/meta-data", "an inner address"),
        ("http://office/a", "http://linked.org/a", "an inner address"),
    ],
)
def test_where_a_redirect_may_lead(before: str, after: str, reason: str, names: None) -> None:
    if not reason:
        check_redirect(before, after)
        return
    with pytest.raises(ValueError, match=reason):
        check_redirect(before, f"{after}?sig=x")


# ---- files that are written


@pytest.fixture
def mask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_files_and_folders_follow_the_umask(tmp_path: Path, mask: None) -> None:
    folder = RunFolder(str(tmp_path / "runs" / "a"))
    folder.write_text("config.yaml", "a")
    folder.save_checkpoint(1, {"a": torch.zeros(1)})
    write_atlas(tmp_path / "atlas", [[0]], image_size=32, seed=0, num_workers=0)
    os.umask(0o022)
    folder.write_text("run.log", "a")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("run.log") == 0o644
    assert set(modes.values()) == {0o600, 0o700}


def test_links_in_the_way_are_replaced_and_not_followed(tmp_path: Path) -> None:
    """As in a folder that others may write to: a link to a file of the user, at the name that will be written."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").symlink_to(victim)
    RunFolder(str(folder)).write_text("config.yaml", "new")
    assert (folder / "config.yaml").read_text() == "new"
    assert not (folder / "config.yaml").is_symlink()

    atlas = tmp_path / "atlas"
    atlas.mkdir()
    for name in ("synth.json.tmp", "train.csv.tmp"):
        (atlas / name).symlink_to(victim)
    write_atlas(atlas, [[0]], image_size=32, seed=0, num_workers=0)
    assert victim.read_text() == "mine"
    assert not any(path.is_symlink() for path in atlas.rglob("*"))


def test_temporary_names_can_not_be_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "replace", lambda source, target: seen.append(source))
    for _ in range(2):
        storage.write_bytes(f"{tmp_path}/a", b"1")
    assert len(set(seen)) == 2
    assert all(len(name) > len(f"{tmp_path}/a") + 30 for name in seen)


def test_arrays_of_numpy_are_not_even_looked_at(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([Bomb(tmp_path / "proof")], object), allow_pickle=True)
    with pytest.raises(InputError, match="neither of torch"):
        parse((tmp_path / "a.npy").read_bytes(), "model.weights = a.pth")
    assert not (tmp_path / "proof").exists()
