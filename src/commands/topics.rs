//! `tasktide topics`: the topics of the list on a broker, or as resources for Strimzi.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use broker::kafka::Access;
use broker::kafka::admin::{Admin, Replication, configuration};
use topics::topic_list::TOPICS;

use crate::cli::{BrokerOptions, RenderOptions, ReplicationOptions, TopicsOptions, TopicsTask};
use crate::settings::Settings;

/// Runs the command.
pub async fn command(options: TopicsOptions) -> anyhow::Result<ExitCode> {
    match options.task {
        TopicsTask::Apply(options) => {
            let admin = admin(&options).await?;
            for line in admin.apply().await? {
                println!("{line}");
            }
            tell_differences(&admin).await
        }
        TopicsTask::Check(options) => tell_differences(&admin(&options).await?).await,
        TopicsTask::Render(options) => {
            print!("{}", render(&options));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn tell_differences(admin: &Admin) -> anyhow::Result<ExitCode> {
    let differences = admin.differences().await?;
    differences.iter().for_each(|difference| println!("{difference}"));
    if !differences.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    println!("{} topics are as they should be", TOPICS.len());
    Ok(ExitCode::SUCCESS)
}

fn replication(copies: ReplicationOptions) -> Replication {
    if copies.local {
        return Replication { factor: 1, min_in_sync: 1 };
    }
    Replication { factor: copies.replication, min_in_sync: copies.min_insync }
}

async fn admin(options: &BrokerOptions) -> anyhow::Result<Admin> {
    let settings = Settings::load(options.config.as_deref()).await?;
    let access = match (&options.brokers, settings.kafka.access.clone()) {
        (Some(brokers), Some(access)) => Access { brokers: brokers.clone(), ..access },
        (Some(brokers), None) => Access::plain(brokers.clone()),
        (None, access) => access.context("give --brokers, or set kafka.brokers")?,
    };
    Ok(Admin::new(&access, replication(options.copies))?)
}

/// `KafkaTopic` resources of Strimzi (`kafka.strimzi.io/v1`).
fn render(options: &RenderOptions) -> String {
    let replication = replication(options.copies);
    let mut yaml = String::new();
    for spec in &TOPICS {
        let namespace = options.namespace.as_ref().map_or_else(String::new, |name| format!("  namespace: {name}\n"));
        let _ = write!(
            yaml,
            "---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaTopic\nmetadata:\n  name: {}\n{namespace}  labels:\n    \
             strimzi.io/cluster: {}\nspec:\n  partitions: {}\n  replicas: {}\n  config:\n",
            spec.name, options.cluster, spec.partitions, replication.factor,
        );
        for (name, value) in configuration(spec, replication) {
            // Numbers as numbers: the resource's schema takes either, and readers expect them.
            let shown = if value.parse::<i64>().is_ok() { value } else { format!("{value:?}") };
            let _ = writeln!(yaml, "    {name}: {shown}");
        }
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_rendered_from_the_list() {
        let copies = ReplicationOptions { replication: 3, min_insync: 2, local: false };
        let yaml = render(&RenderOptions { cluster: "main".to_owned(), namespace: Some("todo".to_owned()), copies });
        assert_eq!(yaml.matches("kind: KafkaTopic").count(), TOPICS.len());
        expect_test::expect![[r#"
            ---
            apiVersion: kafka.strimzi.io/v1
            kind: KafkaTopic
            metadata:
              name: task-events
              namespace: todo
              labels:
                strimzi.io/cluster: main
            spec:
              partitions: 12
              replicas: 3
              config:
                cleanup.policy: "delete"
                compression.type: "producer"
                message.timestamp.type: "CreateTime"
                min.insync.replicas: 2
                retention.bytes: -1
                retention.ms: -1
        "#]]
        .assert_eq(yaml.split_inclusive("retention.ms: -1\n").next().unwrap());
    }
}
