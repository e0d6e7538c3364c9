"""The studies in site_configs: every file is valid and fits its neighbours; the real data count as their owners say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.cohort import Cohort, load_cohort
from client.site_config import SiteConfig, canonical_code, read_site
from client.synthetic import HOSPITALS, synthesize
from client.synthetic.hospitals import PROFILES
from shared_model.protocol import StudyProtocol, read_protocol

STUDIES = Path(__file__).parents[2] / "site_configs"
STUDY_FILES = sorted(STUDIES.glob("*/study*.toml"))
SITE_FILES = sorted(set(STUDIES.glob("*/*.toml")) - set(STUDY_FILES))


def named(path: Path) -> str:
    return path.relative_to(STUDIES).as_posix()


def sites_of(study: str) -> dict[str, SiteConfig]:
    return {path.stem: read_site(path) for path in SITE_FILES if path.parent.name == study}


def cohort_of(study: str, site: str, *, file: str = "study.toml") -> Cohort:
    path = STUDIES / study / f"{site}.toml"
    return load_cohort(read_site(path), read_protocol(STUDIES / study / file), where=path)


def counts(cohort: Cohort) -> tuple[int, int]:
    return len(cohort), int(cohort.tensors.label.sum())


@pytest.mark.parametrize("path", STUDY_FILES, ids=named)
def test_protocols_are_valid_and_open_with_their_command(path: Path) -> None:
    protocol = read_protocol(path)
    assert protocol.study.name.startswith(path.parent.name)
    command = path.read_text(encoding="utf-8").splitlines()[0]
    expected = (
        "# consilium-center demo"
        if named(path) == "demo/study.toml"
        else f"# consilium-center simulate site_configs/{named(path)}"
    )
    assert command.startswith(expected)


@pytest.mark.parametrize("path", SITE_FILES, ids=named)
def test_site_files_open_with_their_command(path: Path) -> None:
    assert read_site(path).site.name == path.stem
    command = path.read_text(encoding="utf-8").splitlines()[0]
    synthetic = path.parent.name == "demo"
    assert command.startswith(
        "# consilium-site synthesize" if synthetic else f"# consilium-site check site_configs/{named(path)}"
    )


@pytest.mark.parametrize("path", STUDY_FILES, ids=named)
def test_each_command_names_every_site_of_its_study(path: Path) -> None:
    if path.parent.name == "demo":
        assert set(sites_of("demo")) == set(HOSPITALS)
        return
    braces = path.read_text(encoding="utf-8").splitlines()[0].split("{")[1].split("}")[0]
    prefix = "ddti_" if path.parent.name == "ddti" else ""
    assert {prefix + name for name in braces.split(",")} == set(sites_of(path.parent.name))


@pytest.mark.parametrize("path", SITE_FILES, ids=named)
def test_sites_speak_the_protocol(path: Path) -> None:
    site, protocol = read_site(path), read_protocol(path.parent / "study.toml")
    assert set(site.cohort.variables) <= set(protocol.variables)
    assert set(site.cohort.require) <= set(site.cohort.variables)
    for name, mapping in site.cohort.variables.items():
        categories = {canonical_code(category) for category in protocol.variables[name].categories}
        if categories and mapping.codes:
            assert {canonical_code(category) for category in mapping.codes.values()} <= categories, name
    assert (site.images is None) == (protocol.images is None)
    if site.images is not None and protocol.images is not None:
        views = {*site.images.view.codes.values(), *([site.images.view.all] if site.images.view.all else [])}
        assert views <= set(protocol.images.views)


def test_heart_is_trained_as_flamby_trains_it() -> None:
    protocol = read_protocol(STUDIES / "heart" / "study.toml")
    order = ["age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak", "cp", "restecg"]
    assert list(protocol.variables) == order
    assert [len(v.categories) for v in protocol.variables.values()] == [0, 0, 0, 0, 0, 0, 0, 0, 4, 3]
    assert protocol.network.kind == "logistic"
    training, federation = protocol.training, protocol.federation
    assert (training.steps, training.batch_size, training.optimizer, training.lr) == (100, 4, "sgd", 0.001)
    assert (training.momentum, training.weight_decay, training.class_weighting) == (0.0, 0.0, "none")
    assert (federation.rounds, federation.normalization, protocol.evaluation.selection) == (15, "site", "last")
    for site in sites_of("heart").values():
        assert list(site.cohort.require) == order
        assert (site.split.train, site.split.tune, site.split.test) == (0.66, 0.0, 0.34)


LEAKS = {
    "llnm_clinical": {
        "ln_examined",
        "ln_positive",
        "n_stage",
        "any_lnm",
        "m_stage",
        "clinical_adenopathy",
        "llnm_all_editions",
    },
    "ddti": {"composition", "echogenicity", "margins", "calcifications", "tirads", "tirads_4_5"},
    "busbra": {"Pathology", "Histology"},
    "demo": {"central_nodes_pathology", "pN", "llnm"},
}


@pytest.mark.parametrize("study", LEAKS)
def test_columns_that_tell_the_outcome_are_no_inputs(study: str) -> None:
    for site in sites_of(study).values():
        assert not LEAKS[study] & {mapping.column for mapping in site.cohort.variables.values()}


def test_ddti_shows_the_nodule_and_not_the_score_typed_beside_it() -> None:
    images = read_protocol(STUDIES / "ddti" / "study.toml").images
    assert images is not None
    assert images.crop == "lesion"
    assert images.context <= 0.1
    assert all(site.images is not None and site.images.roi for site in sites_of("ddti").values())


@pytest.mark.parametrize("kind", ["image_only", "clinical_only"])
def test_ddti_ablations_differ_in_the_kind_of_network_only(kind: str) -> None:
    def without_name(path: str) -> dict[str, object]:
        document = read_protocol(STUDIES / "ddti" / path).model_dump(mode="json")
        del document["study"]["name"]
        return document

    whole, ablation = without_name("study.toml"), without_name(f"study_{kind}.toml")
    assert ablation.pop("network") == {**whole.pop("network"), "kind": kind}  # type: ignore[dict-item]
    assert ablation == whole


def test_demo_offers_doppler_at_two_of_its_hospitals() -> None:
    protocol = read_protocol(STUDIES / "demo" / "study.toml")
    assert protocol.study.synthetic
    assert protocol.modalities == ("bmode", "doppler", "clinical", "serum", "genomic")
    with_doppler = {name for name, site in sites_of("demo").items() if "doppler" in site.images.view.codes.values()}  # type: ignore[union-attr]
    assert with_doppler == {name for name, hospital in PROFILES.items() if "doppler" in hospital.views} == {"maple", "cedar"}


@pytest.fixture(scope="module")
def demo_cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Cohort, Path]]:
    """Sixty patients of each hospital, as tensors of 16 pixels, and the folder of the truth."""
    out = tmp_path_factory.mktemp("demo")
    document = read_protocol(STUDIES / "demo" / "study.toml").model_dump(mode="json")
    document["images"]["size"] = 16
    protocol = StudyProtocol.model_validate_json(json.dumps(document))
    cohorts = {}
    for name in HOSPITALS:
        site_file = synthesize(out, hospital=name, patients=60, seed=3)
        cohorts[name] = (load_cohort(read_site(site_file), protocol, where=site_file), out / "truth" / f"{name}.parquet")
    return cohorts


@pytest.mark.parametrize("name", HOSPITALS)
def test_demo_exports_come_back_as_the_truth(name: str, demo_cohorts: dict[str, tuple[Cohort, Path]]) -> None:
    """Through units, codes and file formats of four hospitals, a patient keeps age, size, outcome and categories."""
    cohort, truth_file = demo_cohorts[name]
    truth = pd.read_parquet(truth_file).set_index("id").loc[list(cohort.patients)]
    tensors, protocol = cohort.tensors, read_protocol(STUDIES / "demo" / "study.toml")
    assert len(cohort) == 60
    np.testing.assert_array_equal(tensors.label.numpy(), truth["label"])
    np.testing.assert_allclose(tensors.numeric[:, 0].numpy(), truth["age"], atol=0.51)
    np.testing.assert_allclose(np.exp(tensors.numeric[:, 1].numpy()), truth["tumour_size"], atol=0.06)
    categorical = [key for key, variable in protocol.variables.items() if variable.kind == "categorical"]
    for column, key in enumerate(categorical):
        true = truth[key].map({True: "yes", False: "no"}) if truth[key].dtype == bool and key != "braf" else truth[key]
        true = true.map({True: "v600e", False: "wild_type"}) if key == "braf" else true
        expected = true.map({category: code for code, category in enumerate(protocol.variables[key].categories)}).to_numpy()
        stored = tensors.categorical[:, column].numpy()
        assert ((stored == expected) | (stored == -1)).all(), key
        absent = PROFILES[name].absent.get(key, 0.0) if key in mapped(name) else 1.0
        assert np.mean(stored == -1) == pytest.approx(absent, abs=0.2), key


def mapped(hospital: str) -> set[str]:
    return set(sites_of("demo")[hospital].cohort.variables)


@pytest.mark.parametrize(("name", "images"), [("maple", 2.9), ("birch", 2.0), ("cedar", 3.0), ("hazel", 1.67)])
def test_demo_hospitals_lack_views(name: str, images: float, demo_cohorts: dict[str, tuple[Cohort, Path]]) -> None:
    cohort, _ = demo_cohorts[name]
    assert cohort.flow.images_unusable == 0
    assert len(cohort.tensors.images) / len(cohort) == pytest.approx(images, abs=0.2)


@pytest.mark.data
@pytest.mark.parametrize(("site", "patients"), [("cleveland", 303), ("hungary", 261), ("switzerland", 46), ("long_beach", 130)])
def test_heart_has_the_complete_cases_of_flamby(site: str, patients: int, data_folder: Path) -> None:
    cohort = cohort_of("heart", site)
    assert len(cohort) == patients
    assert cohort.tensors.numeric_present.all()
    assert (cohort.tensors.categorical >= 0).all()


@pytest.mark.data
@pytest.mark.parametrize(
    ("site", "patients", "positive"),
    [
        ("hamadan", 383, 93),
        ("tcga_pooled", 103, 25),
        ("msk", 93, 15),
        ("uhn", 62, 17),
        ("jhu", 47, 5),
        ("pittsburgh", 47, 4),
        ("mda", 39, 3),
    ],
)
def test_llnm_clinical_has_the_labels_of_its_readme(site: str, patients: int, positive: int, data_folder: Path) -> None:
    assert counts(cohort_of("llnm_clinical", site)) == (patients, positive)


@pytest.mark.data
def test_llnm_clinical_sizes_are_in_millimetres(data_folder: Path) -> None:
    tensors = cohort_of("llnm_clinical", "msk").tensors
    sizes = tensors.numeric[:, 1][tensors.numeric_present[:, 1]].exp()
    assert 10.0 < sizes.median() < 40.0


@pytest.mark.data
def test_llnm_clinical_knows_every_code_of_its_columns(data_folder: Path) -> None:
    for site in sites_of("llnm_clinical"):
        for name, variable in cohort_of("llnm_clinical", site).findings.variables.items():
            assert not variable.unmapped, (site, name)
            assert not variable.out_of_range, (site, name)


@pytest.mark.data
def test_busbra_has_every_patient_of_the_smallest_scanner(data_folder: Path) -> None:
    cohort = cohort_of("busbra", "usystems")
    assert len(cohort) == 14
    assert cohort.tensors.images.shape == (25, 2, 128, 128)
    assert cohort.tensors.images[:, 1].amax(dim=(1, 2)).eq(255).all()  # a lesion mask of every picture


@pytest.mark.data
def test_ddti_sites_share_out_the_labelled_cases(data_folder: Path) -> None:
    cohorts = [cohort_of("ddti", site, file="study_clinical_only.toml") for site in sites_of("ddti")]
    patients = [patient for cohort in cohorts for patient in cohort.patients]
    assert len(patients) == len(set(patients)) == 298
