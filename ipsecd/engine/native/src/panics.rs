//! Says where a panic of a thread of ours happened, in one line: no backtrace, no core, no values.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// How the names of our threads begin.
pub const THREADS: &str = "ipsecd-";

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Keep the place of each panic below `caught` instead of printing it; others go the way they went before.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                return before(info);
            }
            let place = info.location().map_or_else(|| "?".into(), |at| format!("{}:{}", at.file(), at.line()));
            LAST.with(|last| last.replace(format!("panic at {place}")));
        }));
    });
}

/// Run `body`; where it panics, return its place.  What `body` shares with others stays whole: see `crate::lock`.
pub fn caught<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    GUARDED.set(before);
    result.map_err(|_| LAST.with(|last| last.take()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_told_by_its_place_and_not_by_its_values() {
        install();
        let why = caught(|| panic!("a secret")).expect_err("a panic");
        assert!(why.starts_with("panic at") && why.contains("panics.rs") && !why.contains("secret"), "{why}");
        assert_eq!(caught(|| 5), Ok(5));
    }
}
