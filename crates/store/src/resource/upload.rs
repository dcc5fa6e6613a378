//! Uploads: what is known of files that came with a task; their bytes are in the object store.

use freehold_model::{TaskId, upload::Upload};

use crate::{Error, OrgRead, OrgTx, record::record, sql::Column};

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
