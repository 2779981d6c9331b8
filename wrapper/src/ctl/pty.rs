//! `claude-safectl pty`: who holds pseudo-terminals and descriptors, on this machine. Looks; changes nothing.

use super::{Answer, Request, exit};
use crate::config::{self, Sources};
use crate::descriptors::table::Table;
use crate::json::{self, json};
use serde_json::Value;

pub(super) fn run(request: &Request) -> Answer {
    let config = config::load(&Sources::of_this_process()).config;
    let table = crate::descriptors::everybody();
    answer(&table, u64::from(config.pty_warn), request.json)
}

fn answer(table: &Table, pty_warn: u64, as_json: bool) -> Answer {
    Answer {
        text: match as_json {
            true => in_json(table, pty_warn),
            false => table.in_words(),
        },
        code: match table.is_trouble(pty_warn) {
            true => exit::TROUBLE,
            false => exit::DONE,
        },
    }
}

pub(crate) fn in_json(table: &Table, pty_warn: u64) -> String {
    let one = |holder: &crate::descriptors::judgement::Holder| {
        json!({
            "pid": holder.pid,
            "command": holder.command.as_str(),
            "ptmx": holder.ptmx,
            "descriptors": holder.open,
            "limit": holder.limit,
        })
    };
    let processes: Vec<Value> = table.holders.iter().map(one).collect();
    json::text(&json!({
        "processes": processes,
        "ptmx": table.ptmx(),
        "descriptors": table.open(),
        "not_readable": table.not_readable,
        "kernel": { "used": table.ceiling.used, "max": table.ceiling.max },
        "warn_at": pty_warn,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::judgement::{Ceiling, Holder};

    #[test]
    fn programs_get_every_process_and_plain_numbers() {
        let table = Table {
            holders: vec![Holder {
                pid: 7,
                command: "\"sh\"".to_owned(),
                open: 12,
                limit: None,
                ptmx: 5,
            }],
            not_readable: 3,
            ceiling: Ceiling {
                used: Some(6),
                max: Some(4096),
            },
        };
        let told = answer(&table, 5, true);
        assert_eq!(told.code, exit::TROUBLE);
        let value: Value = serde_json::from_str(&told.text).unwrap();
        let wanted = serde_json::json!({
            "processes": [{"pid": 7, "command": "\"sh\"", "ptmx": 5, "descriptors": 12, "limit": null}],
            "ptmx": 5, "descriptors": 12, "not_readable": 3,
            "kernel": {"used": 6, "max": 4096}, "warn_at": 5,
        });
        assert_eq!(value, wanted);
        let told = answer(&table, 6, false);
        assert_eq!((told.code, told.text), (exit::DONE, table.in_words()));
    }
}
