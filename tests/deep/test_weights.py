import hashlib
import http.server
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from safetensors.torch import save_file
from typer.testing import CliRunner

from sscct_lib.cli.app import app
from sscct_lib.deep import networks, weights
from sscct_lib.study.folder import StudyError, load_study
from sscct_lib.study.settings import NetworkSettings

pytestmark = pytest.mark.usefixtures("narrow_resnet")

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def sscct(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("deep: {networks: [resnet18], resnet18: {size: 16}}\n")
    return load_study(tmp_path / "study")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class Short(Quiet):
    """A connection that breaks off before the end."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100])


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Let the address of `imagenet` be a server of this machine."""
    servers = []
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "w.pth").write_bytes(CONTENT)

    def start(handler=Quiet, **changed):
        made = partial(handler, directory=str(tmp_path / "files"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), made)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/w.pth"
        given = {"source": source, "sha256_start": DIGEST[:8], **changed}
        monkeypatch.setitem(weights.PUBLISHED, "imagenet", replace(weights.PUBLISHED["imagenet"], **given))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_fetching_gives_the_file_and_its_sha256(study, serve):
    serve()
    path, digest = weights.fetch(study.folder, "imagenet")
    assert path.read_bytes() == CONTENT
    assert digest == DIGEST
    shown = weights.table(study).set_index("name")
    assert shown.loc["imagenet", ["state", "sha256"]].tolist() == ["here", DIGEST]
    assert shown.loc["medicalnet", ["state", "sha256"]].tolist() == ["absent", "not published"]
    settings = NetworkSettings(weights="imagenet")
    assert weights.located(study, "densenet121", settings) == path
    # What is there is kept: the source is not asked again.
    serve(source="http://127.0.0.1:9/")
    assert weights.fetch(study.folder, "imagenet", DIGEST.upper()) == (path, DIGEST)
    path.write_bytes(b"changed")
    assert weights.table(study).set_index("name").loc["imagenet", "state"] == "damaged"
    for use in (
        partial(weights.fetch, study.folder, "imagenet"),
        lambda: weights.located(study, "densenet121", settings),
    ):
        with pytest.raises(StudyError, match=f"its authors' begins with {DIGEST[:8]}"):
            use()


@pytest.mark.parametrize(
    ("started", "sha256", "message"),
    [
        ({"sha256_start": "00000000"}, None, "its authors' begins with 00000000"),
        ({}, "f" * 64, f"has SHA-256 {DIGEST}; expected ffff"),
        ({"handler": Short}, None, r"100 of 7,000 bytes arrived"),
        ({"source": "http://127.0.0.1:9/w.pth"}, None, "cannot be fetched .*put it into weights/ of the study"),
    ],
)
def test_a_file_that_is_not_the_one_expected_is_not_kept(study, serve, started, sha256, message):
    serve(**started)
    with pytest.raises(StudyError, match=message):
        weights.fetch(study.folder, "imagenet", sha256)
    assert list((study.folder / "weights").iterdir()) == []


@pytest.mark.parametrize("name", ["imagenet", "lungmask"])
def test_the_start_of_the_published_sha256_is_what_the_file_name_says(name):
    # PyTorch's hub puts the first eight digits of the SHA-256 into the name of the file, and checks them.
    published = weights.PUBLISHED[name]
    assert published.file.endswith(f"-{published.sha256_start[:8]}.pth")


def test_weights_that_find_lungs_are_those_of_the_release(study, serve, monkeypatch):
    serve()
    source = weights.PUBLISHED["imagenet"].source
    given = replace(weights.PUBLISHED["lungmask"], source=source)
    monkeypatch.setitem(weights.PUBLISHED, "lungmask", given)
    assert len(given.sha256_start) == 64
    with pytest.raises(StudyError, match=f"its authors' begins with {given.sha256_start}"):
        weights.fetch(study.folder, "lungmask")
    monkeypatch.setitem(weights.PUBLISHED, "lungmask", replace(given, sha256_start=DIGEST))
    done = sscct("weights", "fetch", "lungmask", study.folder)
    assert done.exit_code == 0
    assert "Compare it" not in done.output
    assert f"lungmask_weights: weights/{given.file}, lungmask_sha256: {DIGEST}" in " ".join(done.output.split())
    with pytest.raises(StudyError, match=r"deep\.swin\.weights: lungmask are weights of lungmask"):
        weights.located(study, "swin", NetworkSettings(weights="lungmask"))


def test_names_of_other_networks_and_unknown_names_are_refused(study):
    with pytest.raises(StudyError, match=r"deep\.swin\.weights: medicalnet are weights of resnet18"):
        weights.located(study, "swin", NetworkSettings(weights="medicalnet"))
    with pytest.raises(StudyError, match="sscct weights fetch medicalnet STUDY"):
        weights.located(study, "resnet18", NetworkSettings(weights="medicalnet"))
    with pytest.raises(
        StudyError, match="Unknown weights 'more'; expected one of medicalnet, imagenet, swinvit, lungmask"
    ):
        weights.fetch(study.folder, "more")
    assert weights.located(study, "swin", NetworkSettings(weights="a/b.pt")) == study.folder / "a" / "b.pt"


def test_commands_list_and_verify(study):
    shown = sscct("weights", "list", study.folder)
    assert shown.exit_code == 0
    for published in weights.PUBLISHED.values():
        assert published.source in shown.output
        assert f"licence: {published.licence}" in shown.output
    assert "from scratch" in sscct("weights", "verify", study.folder).output

    torch.manual_seed(1)
    encoder, _ = networks.build_resnet18()
    path = study.folder / "weights" / "resnet_18_23dataset.pth"
    path.parent.mkdir()
    kept = {f"module.{name}": tensor for name, tensor in list(encoder.state_dict().items())[:-3]}
    torch.save({"state_dict": {**kept, "module.conv_seg.0.weight": torch.zeros(2)}}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    settings = (
        f"deep: {{networks: [resnet18], resnet18: {{size: 16, weights: medicalnet, weights_sha256: {digest}}}}}\n"
    )
    (study.folder / "study.yaml").write_text(settings)
    verified = sscct("weights", "verify", study.folder)
    assert verified.exit_code == 0
    assert "83 of 85 tensors matched, 2 missing, 1 unexpected" in " ".join(verified.output.split())
    (study.folder / "study.yaml").write_text(settings.replace(digest, "f" * 64))
    refused = sscct("weights", "verify", study.folder)
    assert refused.exit_code == 1
    assert f"SHA-256 {digest}; expected" in refused.output
    assert sscct("weights", "fetch", "more", study.folder).exit_code == 1


def test_pretraining_names_what_is_missing(study):
    refused = sscct("pretrain", study.folder, "--network", "resnet50")
    assert refused.exit_code == 1
    assert "--network resnet50: expected resnet18, densenet121, swin" in refused.output
    refused = sscct("pretrain", study.folder)
    assert refused.exit_code == 1
    assert "Run `01_cohort` first" in refused.output


def written(path, content):
    torch.save(content, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def resnet(narrow_resnet):
    torch.manual_seed(1)
    return networks.build_resnet18()[0].state_dict()


def test_medicalnet_layout(tmp_path, resnet):
    file = written(tmp_path / "resnet_18_23dataset.pth", {"state_dict": {f"module.{k}": v for k, v in resnet.items()}})
    encoder, _ = networks.build_resnet18()
    loaded = weights.load_weights(encoder, *file)
    assert (loaded.n_matched, loaded.n_expected, loaded.n_unexpected) == (85, 85, 0)
    torch.testing.assert_close(encoder.state_dict(), resnet)
    assert "85 of 85 tensors matched, 0 missing, 0 unexpected" in loaded.words


def test_safetensors(tmp_path, resnet):
    path = tmp_path / "resnet.safetensors"
    save_file(resnet, path)
    encoder, _ = networks.build_resnet18()
    loaded = weights.load_weights(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest().upper())
    assert loaded.n_matched == 85


def test_published_swin_layout_fills_what_monai_fills(tmp_path):
    torch.manual_seed(2)
    vit = SwinUNETR(in_channels=1, out_channels=1, feature_size=12).swinViT.state_dict()
    published = {f"module.{k}".replace("linear1", "fc1").replace("linear2", "fc2"): v for k, v in vit.items()}
    published |= {"module.rotation_head.weight": torch.zeros(4, 2), "module.norm.bias": torch.zeros(2)}
    file = written(tmp_path / "model_swinvit.pt", {"epoch": 3, "state_dict": published})
    encoder, _ = networks.build_swin(feature_size=12)
    loaded = weights.load_weights(encoder, *file)
    assert loaded.n_matched == loaded.n_expected
    assert loaded.n_unexpected == 2
    torch.testing.assert_close(encoder.vit.state_dict(), vit)

    reference = SwinUNETR(in_channels=1, out_channels=1, feature_size=12)
    reference.load_from({"state_dict": published})
    torch.testing.assert_close(encoder.vit.state_dict(), reference.swinViT.state_dict())


@pytest.mark.parametrize("dot", ["", "."])
def test_imagenet_densenet_is_inflated(tmp_path, dot):
    torch.manual_seed(3)
    encoder, _ = networks.build_densenet121()
    flat = {}
    for name, tensor in encoder.state_dict().items():
        old = name.replace(".layers.", ".")
        for kind in ("norm", "conv"):
            for i in "12":
                old = old.replace(f"{kind}{i}.", f"{kind}{dot}{i}.") if ".denselayer" in old else old
        flat[old] = torch.rand(tensor.shape[:2] + tensor.shape[3:]) if tensor.dim() == 5 else tensor
    flat["features.conv0.weight"] = torch.rand(64, 3, 7, 7)
    flat["classifier.weight"] = torch.rand(1000, 1024)
    loaded = weights.load_weights(encoder, *written(tmp_path / "densenet121-a639ec97.pth", flat))
    assert loaded.n_matched == loaded.n_expected
    assert loaded.n_unexpected == 1

    # A volume that does not change along depth must give what the 2D kernel gives on a grey picture.
    picture = torch.rand(1, 1, 20, 20)
    expected = torch.nn.functional.conv2d(picture.expand(1, 3, 20, 20), flat["features.conv0.weight"])
    volume = picture.unsqueeze(2).expand(1, 1, 20, 20, 20)
    inflated = torch.nn.functional.conv3d(volume, encoder.features.conv0.weight)
    torch.testing.assert_close(inflated[:, :, 3], expected)


def test_too_few_tensors_are_refused_and_nothing_is_changed(tmp_path, resnet):
    part = dict(list(resnet.items())[: len(resnet) // 2])
    encoder, _ = networks.build_resnet18()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(StudyError, match=r"half.pt fills \d+ of the 85 tensors.*90%.*Missing, for example: layer"):
        weights.load_weights(encoder, *written(tmp_path / "half.pt", part))
    torch.testing.assert_close(encoder.state_dict(), before)


def test_other_widths_do_not_match(tmp_path):
    wide = networks.build_swin(feature_size=24)[0].state_dict()
    with pytest.raises(StudyError, match=r"fills \d+ of the"):
        weights.load_weights(networks.build_swin(feature_size=12)[0], *written(tmp_path / "w.pt", wide))


def test_checksum_is_required_and_verified(tmp_path, resnet):
    path, digest = written(tmp_path / "w.pt", resnet)
    encoder, _ = networks.build_resnet18()
    with pytest.raises(StudyError, match=f"has SHA-256 {digest}; expected {'0' * 64}"):
        weights.load_weights(encoder, path, "0" * 64)
    with pytest.raises(StudyError, match=f"weights_sha256 is missing for w.pt.*{digest}"):
        weights.load_weights(encoder, path, None)
    with pytest.raises(StudyError, match=r"gone.pt is missing"):
        weights.load_weights(encoder, tmp_path / "gone.pt", digest)


class Harmful:
    def __reduce__(self):
        return print, ("code in the weight file ran",)


@pytest.mark.parametrize("content", [Harmful(), {"state_dict": {}}, [1, 2], {"epoch": 3}])
def test_files_without_weights_are_named(tmp_path, content, capsys):
    encoder, _ = networks.build_resnet18()
    with pytest.raises(StudyError, match=r"w\.pt (is not a file of weights|holds no named tensors)"):
        weights.load_weights(encoder, *written(tmp_path / "w.pt", content))
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    encoder, _ = networks.build_resnet18()
    with pytest.raises(StudyError, match=f"{name} is not a file of weights"):
        weights.load_weights(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest())
