"""The Hub client: pinned revisions, checked hashes, ids in any case, and one sentence for whatever goes wrong."""

import hashlib
import http.server
import json
import logging
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from golden import hub
from golden.errors import BadWeights, InvalidInput, MissingWeights
from golden.hub import PINS, HubFile, Pin, cached_folder, fetch_file, find_file, list_files, same_repo

COMMIT, OLD_COMMIT = "0123456789abcdef0123456789abcdef01234567", "f" * 40
CONTENT = b"the weights"
HASH = hashlib.sha256(CONTENT).hexdigest()
SPELLINGS = ["Lykon/dreamshaper-xl-v2-turbo", "lykon/DreamShaper-XL-v2-turbo"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_unreachable_until", 0.0)
    return tmp_path / "hub"


@pytest.fixture
def offline(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def server(monkeypatch):
    """A Hub on this machine that has one repository with one file, ignores case in ids, and notes what it is asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            owner, repository, _, revision, *file = self.path.strip("/").split("/")
            known = same_repo(f"{owner}/{repository}", SPELLINGS[0]) and file == ["net.safetensors"]
            self.send_response(200 if known else 404)
            if not known:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{HASH}"')
            self.send_header("X-Repo-Commit", COMMIT if revision == "main" else revision)
            self.send_header("Content-Length", str(len(CONTENT) if known else 0))
            self.end_headers()
            if body and known:
                self.wfile.write(CONTENT)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{listening.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked
        listening.shutdown()


def put(cache: Path, repo: str, file: str, content: bytes = CONTENT, commit: str = COMMIT) -> Path:
    """A file where the Hub's client keeps what it has downloaded."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    path = folder / "snapshots" / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return path


# --- ids --------------------------------------------------------------------------------------------------------------


def test_ids_are_compared_without_case():
    assert same_repo(*SPELLINGS)
    assert not same_repo("a/b", "a/c")
    assert all(repo == repo.lower() for repo in PINS)
    for pin in PINS.values():
        assert pin.revision is None or len(pin.revision) == 40
        assert all(len(value) == 64 for value in pin.sha256.values())


def test_a_pin_is_found_under_every_spelling_and_not_for_another_revision():
    for repo in ("xswu/HPSv2", "XSWU/hpsv2"):
        assert hub.find_pin(repo) == PINS["xswu/hpsv2"]
    assert hub.find_pin("xswu/HPSv2", "main") == Pin("main")
    assert hub.find_pin("LucipherDev/Golden-Noise-NPNets", "main").sha256
    assert hub.find_pin("a/b", "v2") == Pin("v2")


@pytest.mark.parametrize("asked", SPELLINGS)
@pytest.mark.parametrize("kept", SPELLINGS)
@pytest.mark.usefixtures("offline")
def test_what_was_fetched_under_one_spelling_is_found_under_the_other(cache, kept, asked):
    path = put(cache, kept, "net.safetensors")
    assert fetch_file(asked, "net.safetensors").samefile(path)
    assert find_file(f"{asked}/net.safetensors").samefile(path)
    assert list_files(asked) == ["net.safetensors"]
    assert cached_folder(asked) == path.parent


# --- a real client and a server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo", SPELLINGS)
def test_a_file_is_downloaded_once_and_its_commit_recorded(server, cache, repo):
    path = fetch_file(repo, "net.safetensors")
    assert path.read_bytes() == CONTENT
    records = json.loads(hub.records_path().read_text())
    record = records[f"{SPELLINGS[0].lower()}/net.safetensors"]
    assert (record["revision"], record["sha256"]) == (COMMIT, HASH)
    assert {line.split("/resolve/")[1] for line in server} == {"main/net.safetensors"}
    before = len(server)
    for spelling in SPELLINGS:
        assert fetch_file(spelling, "net.safetensors") == path
    assert len(server) == before  # a recorded commit needs no question
    assert len(list(cache.glob("models--*"))) == 1


def test_the_pinned_revision_is_asked_for_unless_another_is_given(server, monkeypatch):
    monkeypatch.setitem(PINS, SPELLINGS[0].lower(), Pin(OLD_COMMIT))
    assert hub.commit_of(fetch_file(SPELLINGS[1], "net.safetensors")) == OLD_COMMIT
    assert all(f"/resolve/{OLD_COMMIT}/" in line for line in server)
    assert hub.commit_of(fetch_file(SPELLINGS[1], "net.safetensors", revision=COMMIT)) == COMMIT


def test_a_file_that_the_hub_lacks_is_one_sentence(server):
    with pytest.raises(MissingWeights, match=r"other\.bin of .* could not be downloaded \(.*404") as caught:
        fetch_file(SPELLINGS[0], "other.bin")
    assert "\n" not in str(caught.value)


def test_the_clients_own_tries_are_not_logged(caplog, monkeypatch):
    client = logging.getLogger("huggingface_hub.utils._http")
    monkeypatch.setattr(client, "handlers", [caplog.handler])

    def ask() -> str:
        client.warning("Retrying in 1s [Retry 1/5].")
        return "an answer"

    assert hub._ask_hub("a/b", "net.safetensors", ask) == "an answer"
    assert not caplog.records
    ask()
    assert caplog.records


# --- hashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_a_wrong_hash_is_refused_wherever_it_comes_from(cache, monkeypatch):
    put(cache, "A/b", "w.pt")
    assert fetch_file("a/B", "w.pt", sha256=HASH)
    with pytest.raises(BadWeights, match=r"w\.pt has the SHA-256 .* instead of 0000.* and is not used"):
        fetch_file("a/B", "w.pt", sha256="0" * 64)
    monkeypatch.setitem(PINS, "a/b", Pin(sha256={"w.pt": "1" * 64}))
    with pytest.raises(BadWeights, match="instead of 1111"):
        fetch_file("A/b", "w.pt")
    folder = cache.parent / "local"
    folder.mkdir()
    (folder / "w.pt").write_bytes(CONTENT)
    assert fetch_file(str(folder), "w.pt", sha256=HASH) == fetch_file(str(folder), "w.pt") == folder / "w.pt"
    with pytest.raises(BadWeights, match="instead of 2222"):
        fetch_file(str(folder), "w.pt", sha256="2" * 64)


@pytest.mark.usefixtures("offline")
def test_the_first_download_is_recorded_and_a_changed_file_refused(cache):
    path = put(cache, "a/b", "w.pt")
    assert fetch_file("a/b", "w.pt") == fetch_file("a/b", "w.pt")
    path.write_bytes(b"another")
    with pytest.raises(BadWeights, match="SHA-256"):
        fetch_file("a/b", "w.pt")
    put(cache, "a/b", "w.pt", b"another", OLD_COMMIT)  # another commit may hold another file
    assert fetch_file("a/b", "w.pt", revision=OLD_COMMIT).read_bytes() == b"another"


def test_the_first_download_stays_the_default_whatever_is_asked_for_later(server):
    repo, file = SPELLINGS[0], "net.safetensors"
    for revision, commit in ((None, COMMIT), (OLD_COMMIT, OLD_COMMIT), (None, COMMIT), (OLD_COMMIT, OLD_COMMIT)):
        assert hub.commit_of(fetch_file(repo, file, revision)) == commit
    (record,) = json.loads(hub.records_path().read_text()).values()
    assert (record["revision"], list(record["others"])) == (COMMIT, [OLD_COMMIT])


@pytest.mark.usefixtures("offline")
def test_each_commit_has_a_hash_of_its_own(cache):
    path = put(cache, "a/b", "w.pt", b"old", OLD_COMMIT)
    put(cache, "a/b", "w.pt")
    assert fetch_file("a/b", "w.pt").read_bytes() == CONTENT
    assert fetch_file("a/b", "w.pt", OLD_COMMIT).read_bytes() == b"old"
    path.write_bytes(b"another")
    with pytest.raises(BadWeights, match="SHA-256"):
        fetch_file("a/b", "w.pt", OLD_COMMIT)
    assert fetch_file("a/b", "w.pt").read_bytes() == CONTENT


@pytest.mark.usefixtures("offline")
def test_records_of_an_earlier_version_are_read(cache):
    put(cache, "a/b", "w.pt", b"new", OLD_COMMIT)
    path = put(cache, "a/b", "w.pt")
    hub.records_path().write_text(json.dumps({"a/b/w.pt": {"revision": COMMIT, "sha256": HASH, "stamp": ""}}))
    assert fetch_file("a/b", "w.pt", OLD_COMMIT).read_bytes() == b"new"
    assert fetch_file("a/b", "w.pt") == path
    path.write_bytes(b"another")
    with pytest.raises(BadWeights, match="SHA-256"):
        fetch_file("a/b", "w.pt")


@pytest.mark.usefixtures("offline")
def test_files_that_are_recorded_at_once_do_not_lose_each_other(cache, monkeypatch):
    names = [f"{index}.pt" for index in range(4)]
    for name in names:
        put(cache, "a/b", name)
    real, read = hub.write_bytes, threading.Barrier(len(names))

    def wait(path):
        read.wait(10)  # until all have read the records
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def write_slowly(path, data):
        time.sleep(0.05)
        real(path, data)

    monkeypatch.setattr(hub, "hash_file", wait)
    monkeypatch.setattr(hub, "write_bytes", write_slowly)
    threads = [threading.Thread(target=fetch_file, args=("a/b", name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(hub.records_path().read_text())) == [f"a/b/{name}" for name in names]


@pytest.mark.usefixtures("offline")
def test_a_file_is_hashed_once_as_long_as_it_is_not_written(cache, monkeypatch):
    put(cache, "a/b", "w.pt")
    hashed = []
    real = hub.hash_file
    monkeypatch.setattr(hub, "hash_file", lambda path: hashed.append(path) or real(path))
    for _ in range(3):
        fetch_file("a/b", "w.pt")
    assert len(hashed) == 1


@pytest.mark.usefixtures("offline")
def test_a_cache_that_cannot_be_written_is_used_all_the_same(cache, monkeypatch):
    put(cache, "a/b", "w.pt")

    def refuse(path, data):
        raise PermissionError("read-only")

    monkeypatch.setattr(hub, "write_bytes", refuse)
    assert fetch_file("a/b", "w.pt").read_bytes() == CONTENT


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damaged", ["{", "[]", ""])
def test_damaged_records_are_made_anew(cache, damaged):
    put(cache, "a/b", "w.pt")
    hub.records_path().write_text(damaged)
    assert fetch_file("a/b", "w.pt")
    assert json.loads(hub.records_path().read_text())["a/b/w.pt"]["sha256"] == HASH


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_offline_without_the_file_one_sentence_says_what_to_do(cache):
    with pytest.raises(MissingWeights) as caught:
        fetch_file("a/b", "w.pt")
    for words in ("w.pt of a/b", "HF_HUB_OFFLINE is set", "https://huggingface.co/a/b", str(cache)):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert cached_folder("a/b") is None
    with pytest.raises(MissingWeights, match="The list of files of a/b"):
        list_files("a/b")


def test_an_unreachable_hub_is_not_asked_again_at_once(monkeypatch):
    asked = []

    def unreachable(*arguments, local_files_only, **options):
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("set local_files_only to False")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    for file in ("a", "b"):
        with pytest.raises(MissingWeights, match="cannot be reached"):
            fetch_file("a/b", file)
    assert asked == [False, True]


def test_whatever_the_client_raises_becomes_one_sentence(monkeypatch):
    class Odd(Exception):
        pass

    def fail(*arguments, **options):
        raise Odd("first line.\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(MissingWeights, match=r"f of a/b is not on this machine.*\(first line\): download it from"):
        fetch_file("a/b", "f")
    with pytest.raises(MissingWeights, match="first line"):
        list_files("a/b")


def test_urls_and_names_that_lead_elsewhere_are_refused():
    with pytest.raises(InvalidInput, match="is a URL, which is never opened"):
        find_file("https://huggingface.co/a/b/resolve/main/w.pt")
    with pytest.raises(InvalidInput, match="not the name of a file"):
        fetch_file("a/b", "../../secret")
    for name in ("w.pt", "a/w.pt", "./a/b/w.pt", "../a/b/w.pt"):
        with pytest.raises(MissingWeights, match="OWNER/REPOSITORY/FILE"):
            find_file(name)


def test_a_local_file_goes_before_the_hub(tmp_path):
    (tmp_path / "w.pt").write_bytes(CONTENT)
    assert find_file(str(tmp_path / "w.pt")) == tmp_path / "w.pt"
    assert HubFile("a/b", "deep/w.pt").key == "a/b/deep/w.pt"
