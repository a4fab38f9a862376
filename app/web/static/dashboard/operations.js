// Every document that the dashboard sends. A test validates each against the schema;
// tests/support/graphql_types.py generates the types of their variables and results (generated.d.ts).

/** @typedef {keyof import("./generated.js").Operations} Name */

/** @template {Name} N @param {N} _name @param {string} text */
const graphql = (_name, text) => /** @type {import("./generated.js").Document<N>} */ (text);

const ROW = `
  id name tags archivedAt priority model recipe status statusReason step totalSteps progress etaSeconds notes
  createdAt startedAt finishedAt heartbeatAt hyperparams
  experiment { id name owner project { id name } }
  parent { id name }
`;
const CHECKPOINT = "id ckptPath state reason step sizeBytes tagType releaseTag metrics createdAt markedAt";
const ERRORS = "userErrors { code message field }";

export const RUNS = graphql("Runs", `
  query Runs($filter: RunFilter, $after: String, $first: Int!, $order: RunOrder, $keys: [String!]!) {
    runs(first: $first, after: $after, filter: $filter, orderBy: $order) {
      totalCount totalCountIsLowerBound
      pageInfo { hasNextPage endCursor }
      nodes { ${ROW} metrics(keys: $keys) { key step value special } }
    }
  }`);

export const RUNS_CHANGED = graphql("RunsChanged", `
  subscription RunsChanged($filter: RunFilter, $keys: [String!]!) {
    runsChanged(filter: $filter, seconds: 1) { ${ROW} metrics(keys: $keys) { key step value special } }
  }`);

export const COUNTS = graphql("Counts", `
  query Counts($filter: RunFilter) { runCounts(filter: $filter) { status count } }`);

export const KEYS = graphql("Keys", `
  query Keys($filter: RunFilter) { metricKeys(filter: $filter, first: 100) { value count } }`);

export const FACETS = graphql("Facets", `
  query Facets {
    models: facets(field: MODEL, first: 50) { value count }
    recipes: facets(field: RECIPE, first: 50) { value count }
    owners: facets(field: OWNER, first: 50) { value count }
  }`);

export const SPARKS = graphql("Sparks", `
  query Sparks($filter: RunFilter!, $first: Int!, $keys: [String!]) {
    runs(first: $first, filter: $filter) { nodes { id metricBands(keys: $keys, buckets: 60) { key means } } }
  }`);

export const RUN = graphql("Run", `
  query Run($id: ID!) {
    run(id: $id) {
      id name tags archivedAt priority model recipe status statusReason statusDetail attempt step
      totalSteps progress etaSeconds notes createdAt startedAt finishedAt heartbeatAt lastProgressAt nextAttemptAt cancelRequestedAt
      logRemovedAt pointsThinnedAt pointsRemovedAt dataset hyperparams overrideHyperparams effectiveHyperparams
      resources { gpuType count cpus memoryGb nodes timeLimitMinutes }
      overrides { key requested effective applied }
      metrics { key step value special }
      experiment { id name lastSeq project { id permissions } }
      parent { id name }
      root { id }
      sourceCheckpoint { ckptPath step }
      checkpoints(first: 50) { totalCount nodes { ${CHECKPOINT} } }
    }
  }`);

export const RUN_NOW = graphql("RunNow", `
  subscription RunNow($id: ID!) {
    run(id: $id) {
      id status statusReason statusDetail attempt step totalSteps progress etaSeconds
      startedAt finishedAt heartbeatAt lastProgressAt nextAttemptAt cancelRequestedAt
      effectiveHyperparams
      metrics { key step value special }
    }
  }`);

export const BANDS = graphql("Bands", `
  query Bands($filter: RunFilter!, $first: Int!, $keys: [String!], $from: Long, $to: Long, $buckets: Int!) {
    runs(first: $first, filter: $filter) {
      nodes {
        id
        metricBands(keys: $keys, fromStep: $from, toStep: $to, buckets: $buckets) {
          key steps means lows highs counts special { bucket value count } wallTimes
        }
      }
    }
  }`);

/** The variables of a list of exactly these runs. It takes half the time of `nodes`. `first` is their
 * number: the service computes an operation's cost from it before it runs.
 * @param {string[]} ids @returns {{ filter: import("./generated.js").RunFilter, first: number }} */
export const exactly = (ids) => ({ filter: { ids, archived: null }, first: ids.length });

export const RUN_METRICS = graphql("RunMetrics", `
  subscription RunMetrics($id: ID!, $keys: [String!], $after: Long) {
    runMetrics(runId: $id, keys: $keys, afterStep: $after, seconds: 1) { key steps values wallTimes special { step value } }
  }`);

export const RUN_LOG = graphql("RunLog", `
  subscription RunLog($id: ID!, $offset: Long!) {
    runLog(runId: $id, offset: $offset) { text offset nextOffset totalBytes }
  }`);

export const LOG_PART = graphql("LogPart", `
  query LogPart($id: ID!, $offset: Long!, $limit: Int!) {
    run(id: $id) { log(offset: $offset, limit: $limit) { text offset nextOffset totalBytes } }
  }`);

export const RUN_HISTORY = graphql("RunHistory", `
  query RunHistory($id: ID!, $before: String) {
    run(id: $id) {
      experiment { lastSeq }
      events(last: 50, before: $before) {
        pageInfo { hasPreviousPage startCursor }
        nodes { id seq type at data actor { kind name } }
      }
    }
  }`);

export const RUN_EVENTS = graphql("RunEvents", `
  subscription RunEvents($id: ID!, $after: Long) {
    runEvents(runId: $id, afterSeq: $after) { id seq type at data actor { kind name } }
  }`);

export const LINEAGE = graphql("Lineage", `
  query Lineage($root: ID!) {
    runs(first: 100, filter: { rootRunId: $root }, orderBy: { field: CREATED_AT, direction: ASC }) {
      nodes {
        id name status step createdAt overrideHyperparams
        parent { id }
        sourceCheckpoint { step }
      }
    }
  }`);

export const COMPARED = graphql("Compared", `
  query Compared($ids: [ID!]!, $onlyDifferent: Boolean!) {
    compareRuns(ids: $ids, onlyDifferent: $onlyDifferent) { section key values differs }
    nodes(ids: $ids) {
      ... on Run {
        id name model status step createdAt hyperparams
        experiment { id name }
        sourceCheckpoint { step }
        metrics { key step value special }
      }
    }
  }`);

export const EXPERIMENTS = graphql("Experiments", `
  query Experiments($filter: ExperimentFilter, $after: String, $first: Int!) {
    experiments(first: $first, after: $after, filter: $filter) {
      totalCount
      pageInfo { hasNextPage endCursor }
      nodes {
        id name taskType goal owner tags createdAt archivedAt baseModel project { id name }
        runCounts { status count }
        runs(first: 1) { nodes { id createdAt } }
      }
    }
  }`);

export const EXPERIMENT_NAMES = graphql("ExperimentNames", `
  query ExperimentNames($chosen: ID!) {
    experiments(first: 500) { nodes { id name project { id permissions } } }
    experiment(id: $chosen) { id name project { id permissions } }
  }`);

export const EXPERIMENTS_CHANGED = graphql("ExperimentsChanged", `
  subscription ExperimentsChanged { experimentsChanged(seconds: 1) { id } }`);

export const EXPERIMENT = graphql("Experiment", `
  query Experiment($id: ID!) {
    experiment(id: $id) {
      id name taskType goal version baseModel owner paramConfig tags notes archivedAt createdAt lastSeq project { id name permissions }
      runCounts { status count }
      runs(first: 10) { totalCount nodes { ${ROW} } }
      checkpoints(first: 50, filter: { marked: true }) {
        totalCount
        nodes { ${CHECKPOINT} run { id } }
      }
      events(last: 50) { nodes { id seq type at data actor { kind name } } }
    }
  }`);

export const EXPERIMENT_EVENTS = graphql("ExperimentEvents", `
  subscription ExperimentEvents($id: ID!, $after: Long) {
    experimentEvents(experimentId: $id, afterSeq: $after) { id seq type at data actor { kind name } }
  }`);

export const CHECKPOINTS = graphql("Checkpoints", `
  query Checkpoints($filter: CheckpointFilter, $order: CheckpointOrder, $after: String, $first: Int!) {
    checkpoints(first: $first, after: $after, filter: $filter, orderBy: $order) {
      totalCount
      pageInfo { hasNextPage endCursor }
      nodes { ${CHECKPOINT} run { id status hyperparams } experiment { id name project { id permissions } } }
    }
  }`);

export const RECIPES = graphql("Recipes", `
  query Recipes {
    recipes { name description launchers maxAttempts graceSeconds keepCheckpoints }
  }`);

export const VIEWER = graphql("Viewer", `
  query Viewer { viewer { kind name } projects { id name permissions } }`);

export const AUDIT = graphql("Audit", `
  query Audit($actor: String, $action: String, $target: ID, $outcome: String, $since: DateTime, $until: DateTime, $first: Int!, $after: ID) {
    audit(actor: $actor, action: $action, targetId: $target, outcome: $outcome, since: $since, until: $until, first: $first, after: $after) {
      id at actorKind actorName tokenId action targetId outcome address
    }
  }`);

export const USAGE = graphql("Usage", `
  query Usage($by: UsageGroup!, $experiment: ID, $after: String!) {
    usage(by: $by, experimentId: $experiment, after: $after, first: 100) {
      group name attempts usedSeconds wastedSeconds waitedSeconds savedSeconds gpuHoursUsed gpuHoursWasted gpuHoursWaited gpuHoursSaved goodput
    }
  }`);

export const CAPACITY = graphql("Capacity", `
  query Capacity {
    capacity { queued launchers { name cpus memoryGb gpus { type count } maxRuns active queued trouble } }
  }`);

export const CREATE_EXPERIMENT = graphql("CreateExperiment", `
  mutation CreateExperiment($input: CreateExperimentInput!) {
    createExperiment(input: $input) { experiment { id } ${ERRORS} }
  }`);

export const CREATE_RUN = graphql("CreateRun", `
  mutation CreateRun($input: CreateRunInput!) {
    createRun(input: $input) { run { id } runToken ${ERRORS} }
  }`);

export const CANCEL = graphql("Cancel", `
  mutation Cancel($input: CancelRunInput!) {
    cancelRun(input: $input) { run { id status } checkpoint { ckptPath state } ${ERRORS} }
  }`);

export const UPDATE_RUN = graphql("UpdateRun", `
  mutation UpdateRun($input: UpdateRunInput!) { updateRun(input: $input) { run { id } ${ERRORS} } }`);

export const UPDATE_EXPERIMENT = graphql("UpdateExperiment", `
  mutation UpdateExperiment($input: UpdateExperimentInput!) {
    updateExperiment(input: $input) { experiment { id } ${ERRORS} }
  }`);

export const DELETE_RUN = graphql("DeleteRun", `
  mutation DeleteRun($input: DeleteRunInput!) { deleteRun(input: $input) { deletion { id } ${ERRORS} } }`);

export const DELETE_EXPERIMENT = graphql("DeleteExperiment", `
  mutation DeleteExperiment($input: DeleteExperimentInput!) {
    deleteExperiment(input: $input) { deletion { id } ${ERRORS} }
  }`);

export const RESUME = graphql("Resume", `
  mutation Resume($input: ResumeRunInput!) {
    resumeRun(input: $input) { run { id } runToken ${ERRORS} }
  }`);

export const MARK = graphql("Mark", `
  mutation Mark($input: MarkCheckpointInput!) {
    markCheckpoint(input: $input) { checkpoint { id } ${ERRORS} }
  }`);

export const VERIFY = graphql("Verify", `
  mutation Verify($input: VerifyCheckpointInput!) {
    verifyCheckpoint(input: $input) { checkpoint { id state reason } ${ERRORS} }
  }`);

const WEBHOOK = "id url name types experimentId projectId format pausedAt pausedReason failingSince mayChange";
const DELIVERY = "id type state attempts lastStatus lastError createdAt";

export const WEBHOOKS = graphql("Webhooks", `
  query Webhooks { webhooks { ${WEBHOOK} } }`);

export const DELIVERIES = graphql("Deliveries", `
  query Deliveries($id: ID!) { webhook(id: $id) { deliveries(first: 50) { ${DELIVERY} } } }`);

export const CREATE_WEBHOOK = graphql("CreateWebhook", `
  mutation CreateWebhook($input: CreateWebhookInput!) {
    createWebhook(input: $input) { webhook { id } signingSecret ${ERRORS} }
  }`);

export const UPDATE_WEBHOOK = graphql("UpdateWebhook", `
  mutation UpdateWebhook($input: UpdateWebhookInput!) { updateWebhook(input: $input) { webhook { id } ${ERRORS} } }`);

export const DELETE_WEBHOOK = graphql("DeleteWebhook", `
  mutation DeleteWebhook($input: DeleteWebhookInput!) { deleteWebhook(input: $input) { ${ERRORS} } }`);

export const TEST_WEBHOOK = graphql("TestWebhook", `
  mutation TestWebhook($input: TestWebhookInput!) { testWebhook(input: $input) { delivery { id } ${ERRORS} } }`);

export const REDELIVER = graphql("Redeliver", `
  mutation Redeliver($input: RedeliverInput!) { redeliver(input: $input) { delivery { id } ${ERRORS} } }`);

export const ALERTS = graphql("Alerts", `
  query Alerts($firing: Boolean!) {
    alertRules { id projectId name kind metric direction value points pausedAt }
    alerts(firing: $firing, first: 100) { ruleId runId attempt step value ckptPath firedAt recoveredAt }
  }`);

export const CREATE_ALERT_RULE = graphql("CreateAlertRule", `
  mutation CreateAlertRule($input: CreateAlertRuleInput!) { createAlertRule(input: $input) { alertRule { id } ${ERRORS} } }`);

export const UPDATE_ALERT_RULE = graphql("UpdateAlertRule", `
  mutation UpdateAlertRule($input: UpdateAlertRuleInput!) { updateAlertRule(input: $input) { alertRule { id } ${ERRORS} } }`);

export const DELETE_ALERT_RULE = graphql("DeleteAlertRule", `
  mutation DeleteAlertRule($input: DeleteAlertRuleInput!) { deleteAlertRule(input: $input) { ${ERRORS} } }`);
