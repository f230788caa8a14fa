"""Models and sample submissions that do not fit what shall be predicted: refused, and nothing is predicted."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bad_data import ADVICE, Data, born_model, done, first_images, read_csv, refused, rejected


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return born_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(atlas: Path, model_file: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12, model_file)


def test_models_that_are_none(data: Data, model_file: Path) -> None:
    words = data.command("predict")
    assert refused(*words, f"predict.run={data.root}/nowhere") == [
        f"{data.root}/nowhere/model.safetensors: no such model - "
        "give a run folder that has finished an epoch, or a model.safetensors"
    ]
    spoilt = data.root / "spoilt.safetensors"
    good = model_file.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])

    def with_header(change: dict[str, object]) -> bytes:
        text = json.dumps(header | change).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    card = json.loads(header["__metadata__"]["hpa_ray"])
    other_names = {f"x{name}": value for name, value in header.items() if name != "__metadata__"}
    without_checksum = {"hpa_ray": json.dumps({name: value for name, value in card.items() if name != "checksum"})}
    renamed = json.dumps({"__metadata__": without_checksum, **other_names}).encode()
    for content, reason in (
        (b"", "not a model file of this program ("),
        (b"x" * 100, "not a model file of this program ("),
        (good[:-100], "not a model file of this program ("),
        (with_header({"__metadata__": {"format": "pt"}}), "not a model file of this program (it has no model card)"),
        (with_header({"__metadata__": {"hpa_ray": "{}"}}), "not a model file of this program ("),
        (
            with_header({"__metadata__": {"hpa_ray": json.dumps(card | {"vocabulary": "other"})}}),
            "its vocabulary is 'other', this program reads 'hpa-28'",
        ),
        (
            with_header({"__metadata__": {"hpa_ray": json.dumps(card | {"model": {"name": "vit"}})}}),
            "not a model file of this program (",
        ),
        (good[:-1] + bytes([good[-1] ^ 1]), "damaged (its checksum does not fit) - bring back a good copy of it"),
        (
            len(renamed).to_bytes(8, "little") + renamed + good[8 + length :],
            "the weights do not fit resnet18 (",
        ),
    ):
        spoilt.write_bytes(content)
        (told,) = refused(*words, f"predict.run={spoilt}")
        assert told.startswith(f"{spoilt}: {reason}")
        assert len(told) < 400
    assert not (data.root / "predicted").exists()
    assert refused("predict", f"data.images={data.images}") == [
        "predict needs predict.run=RUN_FOLDER and predict.output=FOLDER"
    ]


@pytest.mark.parametrize("source", ["images", "shards"])
def test_a_submission_with_ids_that_have_no_images(source: str, data: Data) -> None:
    order = [data.ids[5], "nowhere-2", *data.ids[:3], "nowhere-1"]
    sample = data.root / "sample.csv"
    sample.write_text("Id,Predicted\n" + "".join(f"{name},0\n" for name in order))
    words = data.command("predict", f"predict.submission={sample}")
    where = data.images
    if source == "shards":
        done(*data.command("prepare"))
        where = data.shards
        words = (*(word for word in words if not word.startswith("data.images")), f"data.shards={where}")
    lines = [f"{where}/nowhere-{n}_red.png: no image of this Id" for n in (1, 2)]
    assert refused(*words) == [*lines, f"2 of 6 images can not be used: {ADVICE}"]
    told = refused(*words, "data.on_error=quarantine")
    assert told == [*lines, "2 of 6 images can not be used, more than data.max_rejected=0.01 allows"]
    assert not (data.root / "predicted").exists()

    said = done(*words, "data.on_error=quarantine", "data.max_rejected=0.4")
    assert "2 rows of submission.csv have no prediction and carry the most frequent label set" in said
    rows = read_csv(data.root / "predicted" / "submission.csv")
    assert [row["Id"] for row in rows] == order
    assert all(set(row["Predicted"].split()) <= {str(k) for k in range(28)} and row["Predicted"] for row in rows)
    assert [row[0] for row in rejected(data.root / "predicted")] == ["nowhere-1", "nowhere-2"]
    predicted = pq.read_table(data.root / "predicted" / "predictions.parquet")["image_id"].to_pylist()
    assert sorted(predicted) == sorted(set(order) & set(data.ids))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty - expected a csv with the header Id"),
        ("Id,Predicted\n", "no rows below the header"),
        ("Image,Predicted\na,0\n", "no column 'Id' - its columns are: Image, Predicted"),
        ("Id\na\na\n", "line 3: Id 'a' stands more than once - keep one row"),
        ('Id\n"a\nb"\n', r"line 2: Id 'a\nb' - letters, digits and _ . - only"),
        ("Id\n../a\n", "line 2: Id '../a' - letters, digits and _ . - only"),
    ],
)
def test_a_submission_that_is_none(text: str, reason: str, data: Data) -> None:
    sample = data.root / "sample.csv"
    sample.write_text(text)
    assert refused(*data.command("predict", f"predict.submission={sample}")) == [f"{sample}: {reason}"]
    assert not (data.root / "predicted").exists()
