//! Which DICOM attributes may identify a patient, a person, a slide, a place, a day or a device: their names, never their
//! values.
//!
//! Reference: DICOM PS3.15 table E.1-1 (Basic Application Level Confidentiality Profile), PS3.6 (data dictionary).

use super::parse::{Element, Tag};

const NAMES: &[(Tag, &str)] = &[
    (0x0002_0003, "MediaStorageSOPInstanceUID"),
    (0x0002_0016, "SourceApplicationEntityTitle"),
    (0x0008_0012, "InstanceCreationDate"),
    (0x0008_0013, "InstanceCreationTime"),
    (0x0008_0014, "InstanceCreatorUID"),
    (0x0008_0015, "InstanceCoercionDateTime"),
    (0x0008_0017, "AcquisitionUID"),
    (0x0008_0018, "SOPInstanceUID"),
    (0x0008_0019, "PyramidUID"),
    (0x0008_0020, "StudyDate"),
    (0x0008_0021, "SeriesDate"),
    (0x0008_0022, "AcquisitionDate"),
    (0x0008_0023, "ContentDate"),
    (0x0008_002a, "AcquisitionDateTime"),
    (0x0008_0030, "StudyTime"),
    (0x0008_0031, "SeriesTime"),
    (0x0008_0032, "AcquisitionTime"),
    (0x0008_0033, "ContentTime"),
    (0x0008_0050, "AccessionNumber"),
    (0x0008_0080, "InstitutionName"),
    (0x0008_0081, "InstitutionAddress"),
    (0x0008_0090, "ReferringPhysicianName"),
    (0x0008_0092, "ReferringPhysicianAddress"),
    (0x0008_0094, "ReferringPhysicianTelephoneNumbers"),
    (0x0008_009c, "ConsultingPhysicianName"),
    (0x0008_0201, "TimezoneOffsetFromUTC"),
    (0x0008_1010, "StationName"),
    (0x0008_1030, "StudyDescription"),
    (0x0008_103e, "SeriesDescription"),
    (0x0008_1040, "InstitutionalDepartmentName"),
    (0x0008_1048, "PhysiciansOfRecord"),
    (0x0008_1050, "PerformingPhysicianName"),
    (0x0008_1060, "NameOfPhysiciansReadingStudy"),
    (0x0008_1070, "OperatorsName"),
    (0x0008_1080, "AdmittingDiagnosesDescription"),
    (0x0008_1155, "ReferencedSOPInstanceUID"),
    (0x0008_2111, "DerivationDescription"),
    (0x0008_4000, "IdentifyingComments"),
    (0x0010_0010, "PatientName"),
    (0x0010_0020, "PatientID"),
    (0x0010_0021, "IssuerOfPatientID"),
    (0x0010_0030, "PatientBirthDate"),
    (0x0010_0032, "PatientBirthTime"),
    (0x0010_0040, "PatientSex"),
    (0x0010_1000, "OtherPatientIDs"),
    (0x0010_1001, "OtherPatientNames"),
    (0x0010_1005, "PatientBirthName"),
    (0x0010_1010, "PatientAge"),
    (0x0010_1020, "PatientSize"),
    (0x0010_1030, "PatientWeight"),
    (0x0010_1040, "PatientAddress"),
    (0x0010_1060, "PatientMotherBirthName"),
    (0x0010_1090, "MedicalRecordLocator"),
    (0x0010_2110, "Allergies"),
    (0x0010_2154, "PatientTelephoneNumbers"),
    (0x0010_2160, "EthnicGroup"),
    (0x0010_2180, "Occupation"),
    (0x0010_21b0, "AdditionalPatientHistory"),
    (0x0010_4000, "PatientComments"),
    (0x0018_1000, "DeviceSerialNumber"),
    (0x0018_1002, "DeviceUID"),
    (0x0018_1004, "PlateID"),
    (0x0018_1030, "ProtocolName"),
    (0x0018_1200, "DateOfLastCalibration"),
    (0x0018_1201, "TimeOfLastCalibration"),
    (0x0018_4000, "AcquisitionComments"),
    (0x0018_a002, "ContributionDateTime"),
    (0x0018_a003, "ContributionDescription"),
    (0x0020_000d, "StudyInstanceUID"),
    (0x0020_000e, "SeriesInstanceUID"),
    (0x0020_0010, "StudyID"),
    (0x0020_0027, "PyramidLabel"),
    (0x0020_0052, "FrameOfReferenceUID"),
    (0x0020_0242, "SOPInstanceUIDOfConcatenationSource"),
    (0x0020_4000, "ImageComments"),
    (0x0020_9161, "ConcatenationUID"),
    (0x0020_9164, "DimensionOrganizationUID"),
    (0x0028_4000, "ImagePresentationComments"),
    (0x0032_1032, "RequestingPhysician"),
    (0x0032_1060, "RequestedProcedureDescription"),
    (0x0032_4000, "StudyComments"),
    (0x0038_0010, "AdmissionID"),
    (0x0038_0500, "PatientState"),
    (0x0040_0006, "ScheduledPerformingPhysicianName"),
    (0x0040_0244, "PerformedProcedureStepStartDate"),
    (0x0040_0245, "PerformedProcedureStepStartTime"),
    (0x0040_0253, "PerformedProcedureStepID"),
    (0x0040_0254, "PerformedProcedureStepDescription"),
    (0x0040_0512, "ContainerIdentifier"),
    (0x0040_051a, "ContainerDescription"),
    (0x0040_0551, "SpecimenIdentifier"),
    (0x0040_0554, "SpecimenUID"),
    (0x0040_0600, "SpecimenShortDescription"),
    (0x0040_0602, "SpecimenDetailedDescription"),
    (0x0040_1001, "RequestedProcedureID"),
    (0x0040_2016, "PlacerOrderNumberImagingServiceRequest"),
    (0x0040_2017, "FillerOrderNumberImagingServiceRequest"),
    (0x0040_a123, "PersonName"),
    (0x0040_a124, "UID"),
    (0x0040_a160, "TextValue"),
    (0x0040_db0d, "TemplateExtensionCreatorUID"),
    (0x2200_0002, "LabelText"),
    (0x2200_0005, "BarcodeValue"),
    (0x4008_0114, "PhysicianApprovingInterpretation"),
];

/// The name that an element is reported by, if it may identify; `value` tells an empty one.
///
/// Private elements are one name: nothing says what is in them. Names of people and days that the table does not know are
/// known by their value representation.
#[must_use]
pub fn name_of(element: &Element, value: &[u8]) -> Option<String> {
    if value.iter().all(|b| matches!(b, b' ' | 0 | b'^' | b'\\')) {
        return None;
    }
    if (element.tag >> 16) % 2 == 1 {
        // Their creator's name is no secret.
        return ((element.tag & 0xffff) >= 0x1000).then(|| "dicom.private".to_string());
    }
    match NAMES.binary_search_by_key(&element.tag, |(tag, _)| *tag) {
        Ok(at) => NAMES.get(at).map(|(_, name)| format!("dicom.{name}")),
        Err(_) if matches!(&element.vr, b"PN" | b"DA" | b"DT" | b"TM") => {
            Some(format!("dicom.{:04X},{:04X}", element.tag >> 16, element.tag & 0xffff))
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_tag_or_kind() {
        assert!(NAMES.is_sorted_by_key(|(tag, _)| *tag), "binary search");
        let element = |tag, vr: &[u8; 2]| Element { tag, vr: *vr, offset: 0, length: 0 };
        let name = |tag, vr, value: &[u8]| name_of(&element(tag, vr), value);
        assert_eq!(name(0x0010_0010, b"PN", b"A^B").as_deref(), Some("dicom.PatientName"));
        assert_eq!(name(0x0010_0010, b"PN", b"^^^^"), None);
        assert_eq!(name(0x0010_0020, b"LO", b"  "), None);
        assert_eq!(name(0x0018_9074, b"DT", b"2020").as_deref(), Some("dicom.0018,9074"));
        assert_eq!(name(0x3021_1001, b"LT", b"x").as_deref(), Some("dicom.private"));
        assert_eq!(name(0x3021_0010, b"LO", b"VENDOR"), None);
        assert_eq!(name(0x0028_0010, b"US", &[1, 0]), None);
    }
}
