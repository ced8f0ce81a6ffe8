//! List and single rows of every view other than tasks, made from the view's own declaration ([`ViewSpec`]).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use chrono_tz::Tz;
use topics::view::{Filter, ViewRow, ViewSpec};
use topics::{TaskId, UserId};

use super::answer::{Hold, ListBody, json_bytes, list};
use super::audit::{cursor_problem, zone};
use super::{Api, Ask, LIMIT, PAGED, Resource, path_id};
use crate::auth::Subject;
use crate::cursor::{Cursor, digest};
use crate::freshness::{COMMON, Wanted};
use crate::index::{ColumnFilter, ColumnTest, RowKey, RowQuery};
use crate::params::{Kind, Param, Params, param};
use crate::problem::Problem;

/// Filters that every view has.
const OWNER: &[Param] =
    &[param("userId", Kind::User, "Only rows of this user."), param("taskId", Kind::Id, "Only rows of this task.")];

/// The filters of a view: those that every view has, and those that its columns declare.
pub(super) fn filters(spec: &ViewSpec) -> Vec<Param> {
    let mut params = OWNER.to_vec();
    for column in spec.columns {
        match column.filter {
            Filter::None => {}
            Filter::AnyOf { parameter, words } => params.push(param(parameter, Kind::Words(words), column.about)),
            Filter::Flag { parameter } => params.push(param(parameter, Kind::Flag, column.about)),
            Filter::Id { parameter } => params.push(param(parameter, Kind::Id, column.about)),
            Filter::Range { after, before } => {
                params.push(param(after, Kind::Moment, column.about));
                params.push(param(before, Kind::Moment, column.about));
            }
        }
    }
    // A view may filter by its task under the common name.
    let mut seen: Vec<&str> = Vec::new();
    params.retain(|p| {
        !seen.contains(&p.name) && {
            seen.push(p.name);
            true
        }
    });
    params
}

const SORT: Param = param("sort", Kind::Words(&[]), "The sort column's word; with - reversed.");

pub(super) fn resources(view: usize, spec: ViewSpec) -> Vec<Resource> {
    let path = format!("/v1/{}", spec.name);
    let filters: Arc<[Param]> = filters(&spec).into();
    let declared = filters.clone();
    let rows = move |State(api): State<Arc<Api>>, ask: Ask| rows(api, ask, view, spec, declared.clone());
    let mut resources = vec![
        Resource::get(&path, spec.about, rows)
            .takes(&filters)
            .takes(&[SORT])
            .takes(PAGED)
            .takes(COMMON)
            .gives("RowList"),
    ];
    if spec.by_key {
        let one = move |State(api): State<Arc<Api>>, Path(key): Path<String>, ask: Ask| row(api, ask, key, view, spec);
        let about = format!("One row of {}.", spec.name);
        resources.push(Resource::get(&format!("{path}/{{id}}"), &about, one).takes(COMMON).gives("Row"));
    }
    resources
}

/// Reads the filters of a view; whose rows may be shown follows from the caller's scopes.
pub(super) fn query(api: &Api, ask: &Ask, params: &mut Params, spec: &ViewSpec) -> Result<(RowQuery, Tz), Problem> {
    let asked = params.user("userId");
    let user = ask.caller.rows_of(Subject::Tasks, asked)?;
    let zone = zone(api, params, user.as_ref());
    let mut query = RowQuery { user, task: params.id("taskId").map(TaskId), ..RowQuery::default() };
    for (column, declared) in spec.columns.iter().enumerate() {
        let test = match declared.filter {
            Filter::AnyOf { parameter, words } if params.has(parameter) => {
                let wanted = if words.is_empty() {
                    params.list(parameter, |word| {
                        if word.is_empty() { Err("has an empty word".to_owned()) } else { Ok(word.to_owned()) }
                    })
                } else {
                    params.words(parameter).into_iter().map(str::to_owned).collect()
                };
                Some(ColumnTest::AnyOf(wanted))
            }
            Filter::Flag { parameter } => params.flag(parameter).map(ColumnTest::Flag),
            Filter::Id { parameter } if parameter != "taskId" => params.id(parameter).map(ColumnTest::Id),
            Filter::Range { after, before } => {
                let (from, to) = (params.moment(after, zone), params.moment(before, zone));
                (from.is_some() || to.is_some()).then_some(ColumnTest::Range(from, to))
            }
            _ => None,
        };
        query.filters.extend(test.map(|test| ColumnFilter { column, test }));
    }
    Ok((query, zone))
}

async fn rows(
    api: Arc<Api>,
    ask: Ask,
    view: usize,
    spec: ViewSpec,
    declared: Arc<[Param]>,
) -> Result<Response, Problem> {
    let mut params = ask.read(&[&declared, &[SORT], PAGED, COMMON]);
    let (mut query, zone) = query(&api, &ask, &mut params, &spec)?;
    let sort = params.list("sort", |word| match word.strip_prefix('-').unwrap_or(word) == spec.sort_word {
        true => Ok(word.starts_with('-')),
        false => Err(format!("must be {0} or -{0}", spec.sort_word)),
    });
    if sort.len() > 1 {
        params.refuse("sort", format!("must be {0} or -{0}", spec.sort_word));
    }
    query.reversed = sort == [true];
    let limit = params.integer(&LIMIT) as usize;
    let cursor = params.one("cursor", |text| Ok(text.to_owned()));
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    let digest = digest(&format!("{} {query:?} {zone}", spec.name));
    let now = api.status.now();
    let mut as_of = now;
    if let Some(cursor) = cursor {
        let cursor = Cursor::decode::<RowKey>(&cursor, digest, now).map_err(cursor_problem)?;
        as_of = cursor.as_of;
        query.after = Some(cursor.key);
    }
    query.limit = limit;
    api.catch_up(&wanted).await?;
    let page = api.index.rows(view, &query);
    let next_cursor = page.next.map(|key| Cursor::encode(digest, as_of, now, &key));
    let items = page.rows.iter().map(|row| json(&**row));
    // What a client may make long stands in tasks, not in rows.
    let body = ListBody { items, next_cursor, total: None, facets: None, as_of };
    Ok(list(body, page.freshness, Hold::default()))
}

async fn row(api: Arc<Api>, ask: Ask, key: String, view: usize, spec: ViewSpec) -> Result<Response, Problem> {
    ask.caller.may_read(Subject::Tasks)?;
    let key = path_id(&key, spec.singular)?;
    let mut params = ask.read(&[COMMON]);
    params.zone("tz");
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    api.catch_up(&wanted).await?;
    let (row, seen) = api.index.row(view, key);
    let visible = |user: &UserId| ask.caller.may_see(Subject::Tasks, user);
    let row = row.filter(|r| visible(r.user())).ok_or_else(|| Problem::not_found(spec.singular))?;
    let mut response = json_bytes(json(&*row));
    response.extensions_mut().insert(seen);
    Ok(response)
}

pub(super) fn json(row: &dyn ViewRow) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    row.write_json(&mut out);
    out
}
