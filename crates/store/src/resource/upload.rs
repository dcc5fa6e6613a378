//! Uploads: what is known of files that came with a task; their bytes are in the object store.

use freehold_model::{TaskId, UploadId, upload::Upload};

use crate::{Error, OrgRead, OrgTx, SystemRead, record::record, sql::Column};

record!(Upload in "uploads"; id, task_id, name, size);

impl OrgRead<'_> {
    /// The files of a task, in the order of their insertion; their number is limited by whoever takes them in.
    pub fn upload_list(&mut self, task: TaskId) -> Result<Vec<Upload>, Error> {
        self.select(" AND task_id = ?2 ORDER BY id", &[task.write()])
    }
}

impl OrgTx<'_> {
    /// Inserts a file of a task; a name that the task has already breaks `uploads_organization_id_task_id_name_key`.
    pub fn upload_insert(&mut self, upload: &Upload) -> Result<(), Error> {
        self.insert(upload)
    }
}

impl SystemRead<'_> {
    /// Those of these uploads, of whichever organization, that no task has.
    pub fn uploads_without_row(&mut self, ids: &[UploadId]) -> Result<Vec<UploadId>, Error> {
        let mut left = Vec::new();
        for id in ids {
            if self.find::<Upload>("WHERE id = ?1", &[id.write()])?.is_none() {
                left.push(*id);
            }
        }
        Ok(left)
    }
}
