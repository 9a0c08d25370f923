//! Which of OpenSlide's properties are handed on, and which names are reported because their values may identify.
//!
//! Values leave the child only for names in [`ALLOWED`], and for suspect ones where the audit asks, which looks for them. Names are judged by the words in them, over vendors: a name too
//! many does no harm, one too few would tell a user that a slide is clean when it is not.
//! Source: <https://openslide.org/properties/> and the properties of the slides in the test collection.

/// Properties whose values the parent may see: sizes, resolution, colour. None of them names anybody.
pub const ALLOWED: [&str; 11] = [
    "openslide.mpp-x",
    "openslide.mpp-y",
    "openslide.objective-power",
    "openslide.bounds-x",
    "openslide.bounds-y",
    "openslide.bounds-width",
    "openslide.bounds-height",
    "openslide.background-color",
    "tiff.XResolution",
    "tiff.YResolution",
    "tiff.ResolutionUnit",
];

/// Free text, or file names, whole: vendor and field in lower case.
const FIELDS: [&str; 14] = [
    "openslide.comment",
    "tiff.artist",
    "tiff.copyright",
    "tiff.documentname",
    "tiff.hostcomputer",
    "tiff.imagedescription",
    "tiff.pagename",
    "aperio.title",
    "aperio.scanscope id",
    "aperio.dsr id",
    "hamamatsu.reference",
    "hamamatsu.authcode",
    "philips.dicom_derivation_description",
    "dicom.imagecomments",
];

/// Words that make any vendor's field suspect, in lower case.
const WORDS: [&str; 31] = [
    "patient",
    "barcode",
    "label",
    "date",
    "created",
    "creator",
    "creation",
    "user",
    "operator",
    "physician",
    "observer",
    "person",
    "institution",
    "accession",
    "study",
    "specimen",
    "container",
    "case",
    "imageid",
    "slide_id",
    "slideid",
    "slide_name",
    "slidename",
    "project_name",
    "filename",
    "imagefile",
    "station",
    "serial",
    "s/n",
    "rack",
    "slot",
];

/// Whether a property of this name may hold something that identifies the slide, the patient, a person or a place.
#[must_use]
pub fn may_identify(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name)) {
        return false;
    }
    if FIELDS.contains(&name.as_str()) {
        return true;
    }
    let Some((vendor, field)) = name.split_once('.') else { return true };
    if vendor == "openslide" {
        return false;
    }
    let last = field.rsplit('.').next().unwrap_or(field);
    let class = last.ends_with("classuid") || last == "transfersyntaxuid" || last == "implementationversionname";
    WORDS.iter().any(|word| field.contains(word))
        || (last.ends_with("time") && !last.contains("exposure"))
        || last == "time zone"
        || (last.ends_with("uid") && !class)
}

/// A property's name as it is reported: without list indices, so that a list is one name, and without surprises.
#[must_use]
pub fn report_name(name: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0;
    for c in name.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = (depth - 1_i32).max(0),
            c if depth == 0 && (c.is_ascii_alphanumeric() || " ._-/".contains(c)) => plain.push(c),
            _ => {}
        }
    }
    plain.truncate(160);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_identifying_fields_are_known() {
        for name in [
            "aperio.Filename",
            "aperio.Date",
            "aperio.Time",
            "aperio.Time Zone",
            "aperio.User",
            "aperio.ImageID",
            "aperio.ScanScope ID",
            "hamamatsu.Created",
            "hamamatsu.Updated",
            "hamamatsu.NDP.S/N",
            "mirax.GENERAL.SLIDE_ID",
            "mirax.GENERAL.SLIDE_NAME",
            "mirax.GENERAL.PROJECT_NAME",
            "mirax.GENERAL.SLIDE_CREATIONDATETIME",
            "leica.barcode",
            "leica.creation-date",
            "ventana.BarCode1D",
            "ventana.UserName",
            "philips.PIM_DP_UFS_BARCODE",
            "philips.PIM_DP_SCANNER_OPERATOR_ID",
            "philips.DICOM_DEVICE_SERIAL_NUMBER",
            "philips.DICOM_ACQUISITION_DATETIME",
            "dicom.PatientName",
            "dicom.StudyInstanceUID",
            "dicom.SOPInstanceUID",
            "dicom.AccessionNumber",
            "dicom.SpecimenDescriptionSequence[0].SpecimenIdentifier",
            "dicom.ContributingEquipmentSequence[1].InstitutionAddress",
            "dicom.ReferringPhysicianName",
            "dicom.ContentTime",
            "tiff.DateTime",
            "tiff.Artist",
            "tiff.HostComputer",
            "tiff.DocumentName",
            "tiff.ImageDescription",
            "openslide.comment",
        ] {
            assert!(may_identify(name), "{name}");
        }
    }

    #[test]
    fn technical_fields_are_not_reported() {
        for name in [
            "openslide.mpp-x",
            "openslide.level[0].width",
            "openslide.vendor",
            "openslide.quickhash-1",
            "aperio.MPP",
            "aperio.Exposure Time",
            "aperio.AppMag",
            "hamamatsu.SourceLens",
            "hamamatsu.variable.exposuretime",
            "tiff.XResolution",
            "tiff.Software",
            "dicom.SOPClassUID",
            "dicom.TransferSyntaxUID",
            "dicom.Rows",
            "philips.DICOM_PIXEL_SPACING",
        ] {
            assert!(!may_identify(name), "{name}");
        }
    }

    #[test]
    fn reported_names_lose_their_indices() {
        assert_eq!(report_name("dicom.A[0].B[12].C"), "dicom.A.B.C");
        assert_eq!(report_name("aperio.\u{1b}Date\n"), "aperio.Date");
    }
}
