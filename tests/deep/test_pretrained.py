import hashlib

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from safetensors.torch import save_file

from sscct_lib.deep import networks, pretrained
from sscct_lib.study.folder import StudyError


def written(path, content):
    torch.save(content, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return networks.build_resnet18()[0].state_dict()


def test_medicalnet_layout(tmp_path, resnet):
    file = written(tmp_path / "resnet_18_23dataset.pth", {"state_dict": {f"module.{k}": v for k, v in resnet.items()}})
    encoder, _ = networks.build_resnet18()
    loaded = pretrained.load_weights(encoder, *file)
    assert (loaded.n_matched, loaded.n_expected, loaded.n_unexpected) == (85, 85, 0)
    torch.testing.assert_close(encoder.state_dict(), resnet)
    assert "85 of 85 tensors matched, 0 missing, 0 unexpected" in loaded.words


def test_safetensors(tmp_path, resnet):
    path = tmp_path / "resnet.safetensors"
    save_file(resnet, path)
    encoder, _ = networks.build_resnet18()
    loaded = pretrained.load_weights(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest().upper())
    assert loaded.n_matched == 85


def test_published_swin_layout_fills_what_monai_fills(tmp_path):
    torch.manual_seed(2)
    vit = SwinUNETR(in_channels=1, out_channels=1, feature_size=12).swinViT.state_dict()
    published = {f"module.{k}".replace("linear1", "fc1").replace("linear2", "fc2"): v for k, v in vit.items()}
    published |= {"module.rotation_head.weight": torch.zeros(4, 2), "module.norm.bias": torch.zeros(2)}
    file = written(tmp_path / "model_swinvit.pt", {"epoch": 3, "state_dict": published})
    encoder, _ = networks.build_swin(feature_size=12)
    loaded = pretrained.load_weights(encoder, *file)
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
    loaded = pretrained.load_weights(encoder, *written(tmp_path / "densenet121-a639ec97.pth", flat))
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
        pretrained.load_weights(encoder, *written(tmp_path / "half.pt", part))
    torch.testing.assert_close(encoder.state_dict(), before)


def test_other_widths_do_not_match(tmp_path):
    wide = networks.build_swin(feature_size=24)[0].state_dict()
    with pytest.raises(StudyError, match=r"fills \d+ of the"):
        pretrained.load_weights(networks.build_swin(feature_size=12)[0], *written(tmp_path / "w.pt", wide))


def test_checksum_is_required_and_verified(tmp_path, resnet):
    path, digest = written(tmp_path / "w.pt", resnet)
    encoder, _ = networks.build_resnet18()
    with pytest.raises(StudyError, match=f"has SHA-256 {digest}; expected {'0' * 64}"):
        pretrained.load_weights(encoder, path, "0" * 64)
    with pytest.raises(StudyError, match=f"weights_sha256 is missing for w.pt.*{digest}"):
        pretrained.load_weights(encoder, path, None)
    with pytest.raises(StudyError, match=r"gone.pt is missing"):
        pretrained.load_weights(encoder, tmp_path / "gone.pt", digest)


class Harmful:
    def __reduce__(self):
        return print, ("code in the weight file ran",)


@pytest.mark.parametrize("content", [Harmful(), {"state_dict": {}}, [1, 2], {"epoch": 3}])
def test_files_without_weights_are_named(tmp_path, content, capsys):
    encoder, _ = networks.build_resnet18()
    with pytest.raises(StudyError, match=r"w\.pt (is not a file of weights|holds no named tensors)"):
        pretrained.load_weights(encoder, *written(tmp_path / "w.pt", content))
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    encoder, _ = networks.build_resnet18()
    with pytest.raises(StudyError, match=f"{name} is not a file of weights"):
        pretrained.load_weights(encoder, path, hashlib.sha256(path.read_bytes()).hexdigest())
