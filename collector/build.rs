//! Compiles this project's own `.proto` files with `protox`, so that nobody needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../proto");
    println!("cargo::rerun-if-changed=../migrations");
    let files = protox::compile(["stored.proto"], ["../proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
