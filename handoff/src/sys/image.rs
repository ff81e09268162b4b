//! A program with its arguments, environment and descriptors, laid out for exec before the fork: for what only the child
//! knows, its pid, and for descriptors that must have certain numbers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::spawn::reset_signals;

/// The first number, `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

/// Descriptors that a child shall find under consecutive numbers.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// In their order. Their own numbers are above all that they shall have.
    copies: Vec<OwnedFd>,
    /// They keep every free number below taken, so that the pipe by which std reports a failed exec gets none of those that
    /// are about to be written over.
    _spare: Vec<OwnedFd>,
}

impl Numbered {
    /// The caller keeps its descriptors.
    pub(crate) fn from(fds: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let beyond = FIRST.saturating_add(RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX));
        let copy = |fd: &BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, beyond);
        let copies = fds.iter().map(copy).collect::<rustix::io::Result<Vec<_>>>()?;
        let mut spare = Vec::new();
        while let Some(any) = fds.first() {
            let lowest = rustix::io::fcntl_dupfd_cloexec(any, FIRST)?;
            if lowest.as_raw_fd() >= beyond {
                break;
            }
            spare.push(lowest);
        }
        Ok(Self { copies, _spare: spare })
    }
}

/// Makes the child of `command` find descriptors under their numbers and its own pid in `LISTEN_PID`, with every signal at
/// its default, and become the program there and then: what is added to `command` later never happens. The child gets
/// `orphaned` when the thread that spawned it ends.
///
/// # Errors
///
/// The program, an argument or a variable has a zero byte.
pub(crate) fn exec_with(command: &mut Command, arg0: &OsStr, fds: Numbered, orphaned: Signal) -> io::Result<()> {
    let mut image = Image::of(command, arg0, fds, orphaned)?;
    let become_it = move || match image.exec() {
        Err(error) => Err(error),
    };
    // SAFETY: `Image::exec` allocates nothing and takes no lock: it makes plain system calls with what was prepared.
    unsafe { command.pre_exec(become_it) };
    Ok(())
}

struct Image {
    program: CString,
    /// Ends with a null pointer.
    arguments: Vec<*const c_char>,
    /// Ends with two: the place of `pid`, and the end.
    environment: Vec<*const c_char>,
    /// `LISTEN_PID=` and room for the number.
    pid: Vec<u8>,
    fds: Numbered,
    orphaned: Signal,
    _strings: [Vec<CString>; 2],
}

// SAFETY: the pointers lead to strings that the same value owns and that nobody changes.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

const PID: &[u8] = b"LISTEN_PID=";

/// A pid has at most ten digits; a zero byte ends them.
const PID_ROOM: usize = 11;

impl Image {
    fn of(command: &Command, arg0: &OsStr, fds: Numbered, orphaned: Signal) -> io::Result<Self> {
        let program = CString::new(command.get_program().as_bytes())?;
        let words = std::iter::once(arg0).chain(command.get_args());
        let words = words.map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let variables = environment(command)?;
        let point = |strings: &[CString], nulls| {
            strings.iter().map(|string| string.as_ptr()).chain(std::iter::repeat_n(ptr::null(), nulls)).collect()
        };
        Ok(Self {
            program,
            arguments: point(&words, 1),
            environment: point(&variables, 2),
            pid: [PID, &[0; PID_ROOM]].concat(),
            fds,
            orphaned,
            _strings: [words, variables],
        })
    }

    /// Runs in the child.
    fn exec(&mut self) -> io::Result<Infallible> {
        for (number, fd) in (FIRST..).zip(&self.fds.copies) {
            // SAFETY: the call takes numbers. The one that is written over belongs to nobody in the child:
            // `Numbered` keeps std from using it.
            if unsafe { nix::libc::dup2(fd.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        reset_signals()?;
        set_pdeathsig(self.orphaned)?;
        let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        write_decimal(&mut self.pid[PID.len()..], pid);
        let place = self.environment.len() - 2;
        self.environment[place] = self.pid.as_ptr().cast();
        // SAFETY: both blocks are arrays of C strings with a null pointer at the end, and no other thread is there to read
        // `environ`. It is how std does it, so that PATH means the same.
        unsafe {
            environ = self.environment.as_ptr();
            nix::libc::execvp(self.program.as_ptr(), self.arguments.as_ptr());
        }
        Err(io::Error::last_os_error())
    }
}

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

/// The environment that the child of `command` shall have, without the pid.
fn environment(command: &Command) -> io::Result<Vec<CString>> {
    let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => drop(variables.insert(name.to_owned(), value.to_owned())),
            None => drop(variables.remove(name)),
        }
    }
    variables.remove(OsStr::new("LISTEN_PID"));
    let line = |(name, value): (OsString, OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    Ok(variables.into_iter().map(line).collect::<Result<_, _>>()?)
}

/// Writes a number and a zero byte, without allocating.
fn write_decimal(buffer: &mut [u8], number: u32) {
    let digits = number.checked_ilog10().map_or(1, |log| log as usize + 1);
    let mut rest = number;
    for place in buffer[..digits].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    buffer[digits] = 0;
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn numbers_are_written_as_any_other_program_would() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut buffer = [b'x'; PID_ROOM];
            write_decimal(&mut buffer, number);
            let text = CStr::from_bytes_until_nul(&buffer).unwrap();
            assert_eq!(text.to_str().unwrap(), number.to_string());
        }
    }
}
