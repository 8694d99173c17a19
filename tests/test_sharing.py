"""NPNets and judges in folders and on a Hub: what is saved is what is loaded, at a known revision, with its card."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from golden import NPNet, hub
from golden.cards import cell, last_name
from golden.errors import BadWeights, GoldenError, InvalidInput, MissingWeights
from golden.hub import PINS, Pin, is_hub_id
from golden.judges import ALL_JUDGES, JUDGES, Judge, load_judge
from golden.library import GoldenNoise
from golden.npnet import load_npnet, save_npnet
from golden.sharing import OWN_NAMES, WEIGHTS

RECORD = {
    "settings": {"objective": "pairs", "filter": "right", "num_epochs": 3, "start": "/home/somebody/secret/net.pth"},
    "figures": {"step": 120, "train": 0.001, "validation": 0.0023, "identity": 0.107},
    "num_pairs": 4711,
    "pairs": {"model": "sdxl", "targets": ["10x1"], "seed": 3},
}
MEASURED = {"right images, against standard": [1.8, 0.2, 3.5], "no interval": 3}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_unreachable_until", 0.0)
    return tmp_path / "hub"


@pytest.fixture
def net(tiny_npnet_file) -> NPNet:
    net = load_npnet(tiny_npnet_file)
    net.metadata = {"training": json.dumps(RECORD), "measured": json.dumps(MEASURED)}
    return net


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    mine, others = a.state_dict(), b.state_dict()
    assert mine.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in mine.items())


class Repositories(http.server.ThreadingHTTPServer):
    """As much of the Hub as uploading and downloading asks for: repositories with a commit for each upload."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repo, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((each for each in commits if each[0] == revision), None)

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.commits[repo][-1][1]) if self.commits[repo] else {}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[repo].append((name, files))
        return name


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Repositories

    def do_HEAD(self) -> None:
        self.answer_file(body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self.answer_json({"sha": "0" * 40, "id": "a/b", "siblings": [], "tags": [], "private": False})
        else:
            self.answer_file(body=True)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[1:] == ["repos", "create"]:
            wanted = json.loads(data)
            repo = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            self.server.commits.setdefault(repo, [])
            self.answer_json({"url": f"{self.server.url}/{repo}", "name": repo})
            return
        if parts[1:] == ["validate-yaml"]:
            self.answer_json({"errors": [], "warnings": []})
            return
        repo, what = "/".join(parts[2:4]), parts[4]
        if repo.startswith("forbidden/"):
            self.answer_json({"error": "You have no right to do this."}, 403)
        elif what == "preupload":
            files = json.loads(data)["files"]
            plain = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer_json({"files": plain})
        else:
            name = self.server.commit(repo, [json.loads(line) for line in data.splitlines()])
            self.answer_json({"commitUrl": f"{self.server.url}/{repo}/commit/{name}", "commitOid": name})

    def answer_json(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer_file(self, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        owner, repository, _, revision, *path = self.path.strip("/").split("/")
        found = self.server.find(f"{owner}/{repository}", revision)
        content = found[1].get("/".join(path)) if found else None
        self.send_response(404 if content is None else 200)
        if found is None or content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("X-Repo-Commit", found[0])
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body:
            self.wfile.write(content or b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Repositories]:
    with Repositories() as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", listening.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{listening.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        # The ready-made client remembers the address that it was made with.
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", listening.url)
        yield listening
        listening.shutdown()


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_network_comes_back_from_its_folder_with_its_record(net, tmp_path):
    net.save_pretrained(tmp_path / "net")
    files = {path.name for path in (tmp_path / "net").iterdir()}
    assert files == {WEIGHTS, f"{WEIGHTS}.sha256", "config.json", "README.md"}
    for loaded in (NPNet.from_pretrained(tmp_path / "net"), load_npnet(tmp_path / "net")):
        assert_same(loaded, net)
        assert (loaded.config, loaded.metadata) == (net.config, net.metadata)
        assert not loaded.training
    assert json.loads((tmp_path / "net" / "config.json").read_text())["embedding_dim"] == net.config.embedding_dim


def test_overrides_reach_the_network(net, tmp_path):
    net.save_pretrained(tmp_path / "net")
    assert NPNet.from_pretrained(tmp_path / "net", residual=None).config.residual is None


def test_the_folder_of_a_training_is_loaded_as_it_is(net, tmp_path):
    save_npnet(tmp_path / OWN_NAMES[1], net)
    assert_same(NPNet.from_pretrained(tmp_path), net)
    (tmp_path / "other.safetensors").write_bytes((tmp_path / OWN_NAMES[1]).read_bytes())
    assert_same(NPNet.from_pretrained(tmp_path, filename="other.safetensors"), net)


def test_a_damaged_folder_and_a_wrong_hash_are_refused(net, tmp_path):
    net.save_pretrained(tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    right = hashlib.sha256(data).hexdigest()
    assert NPNet.from_pretrained(tmp_path, sha256=right)
    with pytest.raises(BadWeights, match="instead of 0000"):
        NPNet.from_pretrained(tmp_path, sha256="0" * 64)
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(BadWeights, match="is damaged"):
        NPNet.from_pretrained(tmp_path)


def test_what_is_neither_folder_nor_repository_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(MissingWeights, match=r"contains no model\.safetensors"):
        NPNet.from_pretrained(tmp_path / "runs")
    for name in ("runs/npnt", "./a/b", "../b", "net", "a/b/c"):
        assert not is_hub_id(name)
        with pytest.raises(MissingWeights, match=r"There is no folder .* or OWNER/REPOSITORY"):
            NPNet.from_pretrained(name)
    with pytest.raises(InvalidInput, match="is a URL"):
        NPNet.from_pretrained("https://example.com/net")
    with pytest.raises(InvalidInput, match=r"is a file: give its folder, or load it with load_npnet"):
        NPNet.from_pretrained(__file__)
    with pytest.raises(MissingWeights, match=r"No NPNet .*OWNER/REPOSITORY"):
        load_npnet("runs/npnt")


# --- judges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_JUDGES)
def test_a_judge_comes_back_as_what_it_was(name, tiny_judges_folder, tmp_path):
    judge = load_judge(name, tiny_judges_folder / "judges" / f"{name.lower()}.safetensors")
    judge.metadata = {"trained_by": "train/shapes/train_judges.py", "seed": "0"}
    judge.save_pretrained(tmp_path)
    for loaded in (Judge.from_pretrained(tmp_path), JUDGES[name].from_pretrained(tmp_path)):
        assert type(loaded) is JUDGES[name]
        assert_same(loaded, judge)
        assert loaded.metadata == judge.metadata
    card = (tmp_path / "README.md").read_text()
    assert f"# {name} for shapes" in card
    assert "cannot be compared" in card
    assert ModelCard.load(tmp_path / "README.md").data.license == "apache-2.0"
    other = next(cls for cls in JUDGES.values() if cls.name != name)
    with pytest.raises(BadWeights, match=f"contains {name}, not {other.name}"):
        other.from_pretrained(tmp_path)


def test_a_file_that_names_no_judge_needs_the_class(net, tmp_path):
    net.save_pretrained(tmp_path)
    with pytest.raises(BadWeights, match="does not say which judge"):
        Judge.from_pretrained(tmp_path)


# --- cards ------------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_record_says(net):
    card = net.generate_model_card(repo="me/net")
    text = str(card)
    for words in (
        "| pairs | 4711 |",
        "| model | sdxl |",
        "| num epochs | 3 |",
        "| validation loss | 0.0023 |",
        "| right images, against standard | 1.8 [0.2, 3.5] |",
        'GoldenNoise.for_pipeline(pipe, npnet="me/net")',
        'from_pretrained("stabilityai/stable-diffusion-xl-base-1.0")',
        "has not stated a licence",
    ):
        assert words in text
    assert "no interval" not in text
    assert "/home/somebody" not in text
    assert card.data.license == "unknown"
    assert card.data.base_model == "stabilityai/stable-diffusion-xl-base-1.0"
    assert net.generate_model_card(license="mit").data.license == "mit"


def test_the_example_of_a_card_runs(net, tiny_model, tmp_path):
    net.metadata = {"training": json.dumps({"pairs": {"model": "shapes"}})}
    net.save_pretrained(tmp_path / "net", model_card_kwargs={"repo": str(tmp_path / "net")})
    code = (tmp_path / "net" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert 'load_model("shapes")' in code
    names = {"load_model": lambda name: tiny_model, "GoldenNoise": GoldenNoise, "prompt": "a star"}
    lines = [line.replace(".images[0]", "") for line in code.splitlines() if not line.startswith("from ")]
    exec("\n".join(line for line in lines if not line.startswith("image =")), names)
    assert names["golden"]("a star", seed=7).shape == (1, 4, 8, 8)


def test_a_benchmark_gives_the_card_its_first_tables(net, tmp_path):
    with pytest.raises(InvalidInput, match=r"no report\.md"):
        net.generate_model_card(benchmark=tmp_path)
    sections = "\n\n".join(f"## Part {number}\n\n| a | b |\n|---|---|\n| 1 | 2 |" for number in range(4))
    (tmp_path / "report.md").write_text(f"# Main\n\nsubtitle\n\n{sections}\n")
    text = str(net.generate_model_card(benchmark=tmp_path))
    assert "### Part 0" in text
    assert "### Part 1" in text
    assert "Part 2" not in text


@pytest.mark.parametrize("record", ["{", "[]", '{"pairs": 3, "figures": [], "settings": null}', "[" * 100_000])
def test_a_record_of_any_kind_makes_a_card(net, record):
    net.metadata = {"training": record, "measured": record}
    assert "# NPNet\n" in str(net.generate_model_card())


def test_what_a_record_says_cannot_become_markup(net):
    record = {"settings": {"filter": "</td><script>x</script>|`a`\n# b"}, "pairs": {"model": "[x](http://y)"}}
    net.metadata = {"training": json.dumps(record)}
    text = str(net.generate_model_card())
    for words in ("<script>", "[x](", "\n# b", "|`"):
        assert words not in text
    assert cell("a|b") == "a\\|b"
    assert last_name("C:\\users\\x\\net.pth") == last_name("/a/b/net.pth") == "net.pth"
    assert last_name("me/net") == "me/net"


# --- a Hub ------------------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_loaded_by_its_name(server, net, tiny_sdxl_folder):
    url = net.push_to_hub("me/net", token="hf_x")
    ((commit, files),) = server.commits["me/net"]
    assert url.endswith(f"/me/net/commit/{commit}")
    assert {WEIGHTS, "config.json", "README.md"} <= set(files)
    assert b'npnet="me/net"' in files["README.md"]
    assert_same(NPNet.from_pretrained("me/net"), net)
    before = len(server.asked)
    assert_same(load_npnet("me/net"), net)
    assert_same(NPNet.from_pretrained("ME/Net"), net)
    assert len(server.asked) == before  # the first download's commit is known and here
    records = json.loads(hub.records_path().read_text())
    assert records[f"me/net/{WEIGHTS}"]["revision"] == commit


def test_a_later_upload_is_another_revision_which_is_loaded_if_it_is_asked_for(server, net):
    net.push_to_hub("me/net", token="hf_x")
    first = NPNet.from_pretrained("me/net")
    with torch.no_grad():
        net.alpha.add_(1)
    net.push_to_hub("me/net", token="hf_x")
    (old, _), (new, files) = server.commits["me/net"]
    assert_same(NPNet.from_pretrained("me/net"), first)  # what changes upstream changes nothing here
    assert_same(NPNet.from_pretrained("me/net", revision=new), net)
    assert_same(NPNet.from_pretrained("me/net", revision=old), first)
    right = hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert_same(NPNet.from_pretrained("me/net", revision=new, sha256=right), net)
    with pytest.raises(BadWeights, match="and is not used"):
        NPNet.from_pretrained("me/net", revision=old, sha256=right)


def test_a_pin_decides_commit_and_hash(server, net, monkeypatch):
    net.push_to_hub("me/net", token="hf_x")
    ((commit, files),) = server.commits["me/net"]
    monkeypatch.setitem(PINS, "me/net", Pin(commit, {WEIGHTS: hashlib.sha256(files[WEIGHTS]).hexdigest()}))
    assert NPNet.from_pretrained("me/net")
    assert all(f"/resolve/{commit}/" in line for line in server.asked if "/resolve/" in line)
    monkeypatch.setitem(PINS, "me/net", Pin(commit, {WEIGHTS: "0" * 64}))
    with pytest.raises(BadWeights, match="instead of 0000"):
        NPNet.from_pretrained("me/net")


def test_a_judge_goes_to_the_hub_and_back(server, tiny_judges_folder):
    judge = load_judge("AES", tiny_judges_folder / "judges" / "aes.safetensors")
    judge.push_to_hub("me/aes", token="hf_x")
    assert_same(Judge.from_pretrained("me/aes"), judge)


def test_what_the_hub_refuses_or_lacks_is_one_sentence(server, net, monkeypatch):
    with pytest.raises(GoldenError, match=r"could not be uploaded to forbidden/net \(.*403.*log in") as caught:
        net.push_to_hub("forbidden/net", token="hf_x")
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingWeights, match=r"model\.safetensors of me/nothing"):
        NPNet.from_pretrained("me/nothing")
    with pytest.raises(MissingWeights, match=r"model\.safetensors of me/nothing"):
        NPNet.from_pretrained("me/nothing", local_files_only=True)
