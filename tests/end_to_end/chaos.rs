//! A short run of `tollgate chaos`; the long ones are made by hand.

use std::process::Command;

#[tokio::test]
async fn while_everything_goes_wrong_nothing_is_sent_twice_and_the_books_agree() {
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["chaos", "--payments", "400", "--clients", "12", "--seed", "20261123"]).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("the books agree"), "{printed}\n{said}");
}
