//! What the model is told of where it is.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use freehold_pod_api::{AgentConfig, TaskOrder};

/// The folder of a task's files.
pub(crate) fn uploads_folder(data: &Path, order: &TaskOrder) -> PathBuf {
    data.join("uploads").join(order.task_id.to_string())
}

/// The system prompt of a task. It changes as little as possible from task to task, so that providers can cache it.
pub(crate) fn system(config: &AgentConfig, order: &TaskOrder, data: &Path) -> String {
    let mut text = String::from(
        "You are an agent that works on its own in a workspace: an isolated Linux machine that is yours. You have its \
         full use: run programs, write files, start servers. Nobody answers questions while you work; decide \
         sensibly, check what you did, and finish the task.\n\n\
         - Your working directory is /workspace. Files there, and the conversation, stay from task to task. /tmp is \
         small and does not stay.\n\
         - Tools run one after the other, in the order you call them. Shell, working directory and variables persist \
         between commands.\n\
         - Everything you send to the network is checked by a policy outside of this machine. A denied request says \
         so (403 `egress_denied`); do not try to get around it.\n\
         - You hold no secrets and need none: credentials are added outside, on the way. A program that insists on a \
         key gets any placeholder.\n\
         - Your last message, without tool calls, ends the task: say in it what you did, what came of it, and what is \
         left.\n",
    );
    let _ = write!(text, "\nYour role is `{}`.", config.role);
    if let Some(description) = &config.description {
        let _ = write!(text, " {description}");
    }
    let _ = write!(text, "\nThe environment is `{}`.", config.environment);
    if let Some(description) = &config.environment_description {
        let _ = write!(text, " {description}");
    }
    if !order.files.is_empty() {
        let _ =
            write!(text, "\n\nFiles that came with the task, in {}:", uploads_folder(data, order).display());
        for file in &order.files {
            let _ = write!(text, "\n- {} ({} bytes)", file.name, file.size);
        }
    }
    text
}
