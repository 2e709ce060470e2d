"""What was found in a CT, in codes: a JSON for programs, a DICOM structured report for archives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from highdicom.sr.coding import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from datasets.errors import InputError
from datasets.export.coded_names import Code, coded_name, own_code
from datasets.export.dicom_segmentation import MANUFACTURER, VERSION, concept, save_dataset
from datasets.export.dicom_source import in_one_line, read_dicom_source
from datasets.volume.geometry import VolumeGeometry
from datasets.whole_files import write_whole_text

FORMATS = {"json": "_findings.json", "dicom-sr": "_sr.dcm"}
PROBABILITY = Code("confidence", "99CTINSTRUCT", "Confidence of the model, from 0 to 1")
_SERIES_NUMBER = 301


@dataclass(frozen=True)
class Findings:
    """An answer without its voxels.  confidences: by disease, 0 to 1.  millilitres: by the name of a mask."""

    question: str = ""
    text: str = ""
    confidences: Mapping[str, float] = field(default_factory=dict)
    millilitres: Mapping[str, float] = field(default_factory=dict)


def save_findings(
    findings: Findings, geometry: VolumeGeometry, path: str | Path, segmentation: pydicom.Dataset | None = None
) -> Path:
    """Write findings as JSON (``.json``) or as a DICOM structured report (``.dcm``), by the ending of the path.

    segmentation: what `save_dicom_segmentation` returned for the masks, to which the report then points.
    Raises InputError for another ending; of a report also where there is nothing to report or no DICOM series.
    """
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(_as_json(findings, geometry.source), indent=1, ensure_ascii=False)
        write_whole_text(path, text + "\n")
    elif path.suffix == ".dcm":
        with in_one_line(Path(geometry.source)):
            report = _report(findings, geometry, segmentation)
        save_dataset(report, path)
    else:
        raise InputError(f"{path}: findings are written as .json or .dcm; end the name in one of these")
    return path


def _as_json(findings: Findings, source: str) -> dict[str, Any]:
    def coded(label: str) -> dict[str, Any]:
        return {"name": label, **{part: code for part, code in asdict(coded_name(label)).items() if code}}

    return {
        "source": source,
        "question": findings.question,
        "text": findings.text,
        "findings": [{**coded(name), "confidence": value} for name, value in findings.confidences.items()],
        "structures": [{**coded(name), "millilitres": value} for name, value in findings.millilitres.items()],
    }


def _report(
    findings: Findings, geometry: VolumeGeometry, segmentation: pydicom.Dataset | None
) -> hd.sr.Comprehensive3DSR:
    """Template TID 1500 of DICOM PS3.16, a group for each confidence and each mask."""
    source = read_dicom_source(geometry)
    groups = [_confidence(name, value) for name, value in findings.confidences.items()]
    groups += [_structure(name, value, segmentation) for name, value in findings.millilitres.items()]
    if not groups:
        raise InputError(f"{geometry.source}: no confidences and no masks, so nothing for a structured report")
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=str(generate_uid(entropy_srcs=[MANUFACTURER])), name=MANUFACTURER, manufacturer_name=MANUFACTURER
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=CodedConcept("77477000", "SCT", "Computed tomography"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=source.images,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[*source.images, *([segmentation] if segmentation is not None else [])],
        content=content[0],
        series_instance_uid=str(generate_uid()),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=str(generate_uid()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        series_description="CTInstruct findings, for research",
    )


def _confidence(name: str, value: float) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    found = coded_name(name)
    kind = found.kind if found.kind.scheme == "SCT" else own_code(name)
    measured = hd.sr.Measurement(concept(PROBABILITY), float(value), codes.UCUM.NoUnits)
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=str(generate_uid()), identifier=name[:64]),
        finding_type=concept(kind),
        algorithm_id=hd.sr.AlgorithmIdentification(MANUFACTURER, VERSION),
        measurements=[measured],
        finding_category=CodedConcept("404684003", "SCT", "Clinical finding"),
    )


def _structure(name: str, millilitres: float, segmentation: pydicom.Dataset | None) -> Any:
    """A mask's volume, with its segment in the DICOM segmentation where there is one."""
    found, number = coded_name(name), _segment_number(name, segmentation)
    shared: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(uid=str(generate_uid()), identifier=name[:64]),
        "finding_type": concept(found.kind),
        "finding_category": concept(found.category),
        "algorithm_id": hd.sr.AlgorithmIdentification(MANUFACTURER, VERSION),
        "measurements": [
            hd.sr.Measurement(codes.SCT.Volume, float(millilitres), CodedConcept("mL", "UCUM", "milliliter"))
        ],
    }
    if found.region or found.side:
        side = concept(found.side) if found.side else None
        shared["finding_sites"] = [hd.sr.FindingSite(concept(found.region or found.kind), laterality=side)]
    if segmentation is None or number is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(**shared)
    segment = _reference(segmentation, number)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **shared)


def _reference(segmentation: pydicom.Dataset, number: int) -> hd.sr.ReferencedSegment:
    """A segment of a DICOM segmentation, with the images that it was made of, or their series.

    highdicom looks for a segment's number in each frame; where there is one segment, all frames share it.
    """
    if "SegmentIdentificationSequence" in segmentation.PerFrameFunctionalGroupsSequence[0]:
        return hd.sr.ReferencedSegment.from_segmentation(segmentation, segment_number=number)
    series = hd.sr.SourceSeriesForSegmentation(segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID)
    names = (segmentation.SOPClassUID, segmentation.SOPInstanceUID)
    return hd.sr.ReferencedSegment(*names, segment_number=number, source_series=series)


def _segment_number(name: str, segmentation: pydicom.Dataset | None) -> int | None:
    for segment in segmentation.SegmentSequence if segmentation is not None else ():
        if segment.SegmentLabel == name[:64]:
            return int(segment.SegmentNumber)
    return None
