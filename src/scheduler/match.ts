/**
 * What a job requires, held against what a node has: one list of checks, used both to grant and to
 * explain, so that the two can never disagree.
 */
import { formatSize } from '../base/units.ts'
import {
  BASE_TOOLS,
  toolOf,
  userlandFor,
  type Environment,
  type Userland,
} from '../wire/environment.ts'
import { BUILTIN_FETCH, hostsOf } from '../wire/derivation.ts'
import { cpuRangeOfSteps } from './cpu-range.ts'
import { hasFeature, isEmulated, isStronger, strongestOf } from './isolation.ts'
import {
  doesServe,
  hasWalls,
  placesOf,
  systemServes,
  wallsWanted,
  type JobPlace,
} from './job-places.ts'
import { comparedFor, comparedMachine, type Job, type NodeEntry, type Step } from './model.ts'

/** Everything about a job that matching looks at. Jobs with equal requirements share one queue. */
export interface Requirement {
  readonly hosts: readonly string[]
  readonly isFetch: boolean
  readonly sealed: boolean
  readonly features: readonly string[]
  readonly tools: readonly string[]
  readonly cpusMin: number
  readonly cpusMax: number
  readonly memoryBytes: number
  readonly diskBytes: number
  /** Where it is built in images; empty for one that never is. */
  readonly places: readonly JobPlace[]
  /** It has to be a machine of this system, natively or emulating: a lease names the environment that was chosen. */
  readonly machine?: string | undefined
  /** By system: the userland that the requests are bound to. */
  readonly bindings: ReadonlyMap<string, Userland>
  /** Equal for equal requirements. */
  readonly key: string
}

/** One requirement against one node, with the observed values. */
export interface Verdict {
  readonly requirement: string
  readonly want: string
  readonly have: string
  readonly ok: boolean
  /** Waiting cannot change it. */
  readonly permanent: boolean
}

/** Programs whose contents belong to the job's fingerprint beyond BASE_TOOLS: the declared ones and its builder. */
function toolsOf(derivation: {
  readonly tools: readonly string[]
  readonly builder: string
}): string[] {
  const tools = new Set(derivation.tools)
  const program =
    /^(?:\/usr)?\/bin\/([A-Za-z0-9_+][A-Za-z0-9_+.-]{0,63})$/.exec(derivation.builder)?.[1] ??
    derivation.builder
  if (/^[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,63}$/.test(program)) tools.add(program)
  for (const tool of BASE_TOOLS) tools.delete(tool)
  return [...tools].toSorted()
}

/** The requirement of the job of `waiters`: resources are the largest that any of them asks for. */
export function requirementOf(waiters: Iterable<Step>): Requirement {
  let first: Step | undefined
  let memoryBytes = 0
  let diskBytes = 0
  const features = new Set<string>()
  const bindings = new Map<string, Userland>()
  const steps = [...waiters]
  const { min: cpusMin, max: cpusMax } = cpuRangeOfSteps(steps)
  for (const step of steps) {
    first ??= step
    const { needs } = step.derivation
    memoryBytes = Math.max(memoryBytes, needs.memoryBytes, step.job?.memoryFloorBytes ?? 0)
    diskBytes = Math.max(diskBytes, needs.diskBytes)
    for (const feature of needs.features) features.add(feature)
    if (step.derivation.builder === BUILTIN_FETCH) continue
    for (const [system, userland] of step.request.bindings)
      bindings.set(system, mergeUserlands(bindings.get(system), userland))
  }
  if (first === undefined) throw new Error('a job that is matched has a waiter')
  const { derivation } = first
  const isFetch = derivation.builder === BUILTIN_FETCH
  const machine = first.job === undefined ? undefined : comparedMachine(first.job)
  const parts = {
    hosts: isFetch ? ['any'] : hostsFor(first),
    isFetch,
    sealed: derivation.sealed && !isFetch,
    features: [...features].toSorted(),
    tools: isFetch ? [] : toolsOf(derivation),
    cpusMin,
    cpusMax,
    memoryBytes,
    diskBytes,
    places: isFetch ? [] : placesOf(derivation),
    ...(machine === undefined ? {} : { machine }),
  }
  return makeRequirement(parts, bindings)
}

/** The same with so much memory. */
export function withMemory(requirement: Requirement, memoryBytes: number): Requirement {
  if (memoryBytes === requirement.memoryBytes) return requirement
  const { bindings, key: _key, ...parts } = requirement
  return makeRequirement({ ...parts, memoryBytes }, bindings)
}

/** With its key, which levels of a tree know it by: what older nodes have not heard of is left out where it says nothing. */
export function makeRequirement(
  parts: Omit<Requirement, 'bindings' | 'key'>,
  bindings: Requirement['bindings'],
): Requirement {
  const sorted = [...bindings].toSorted(([a], [b]) => (a < b ? -1 : 1))
  const { places, ...plain } = parts
  const named = places.length === 0 ? plain : { ...plain, places }
  return { ...parts, bindings, key: JSON.stringify([named, sorted]) }
}

/** Builds that are compared are all made for one system: that of the first. */
function hostsFor({ derivation, job }: Step): readonly string[] {
  const system = job === undefined ? undefined : comparedFor(job)
  return system === undefined ? hostsOf(derivation) : [system]
}

/** All that is known of two userlands that do not contradict each other; its tools are sorted. */
export function mergeUserlands(a: Userland | undefined, b: Userland): Userland {
  const tools = Object.entries({ ...a?.tools, ...b.tools }).toSorted(([left], [right]) =>
    left < right ? -1 : 1,
  )
  return { base: b.base, tools: Object.fromEntries(tools) }
}

/** Whether two steps of one key may wait for one run: the userlands that their requests are bound to may be mixed. */
export function mayShareRun(a: Step, b: Step): boolean {
  if (a.derivation.builder === BUILTIN_FETCH) return true
  for (const [system, userland] of a.request.bindings)
    if (!fitsBinding(userland, b.request.bindings.get(system))) return false
  return true
}

/** Whether the node has, or may turn out to have, just this userland. */
export function mayHaveUserland(node: NodeEntry, system: string, userland: Userland): boolean {
  return node.environments.some(
    (environment) =>
      environment.system === system &&
      environment.isolation !== 'image' &&
      sameUserland(userland, environment) !== false,
  )
}

/**
 * The environment of the node that the job would run in. Of those that serve it: one with all features that it
 * asks for, then one whose userland its requests may be built with, then a native one, then the strongest.
 */
export function environmentFor(
  requirement: Requirement,
  node: Pick<NodeEntry, 'environments'>,
): Environment | undefined {
  let best: Environment | undefined
  for (const environment of node.environments)
    if (
      doesServe(requirement, environment) &&
      (best === undefined || isPreferred(requirement, environment, best))
    )
      best = environment
  return best
}

function isPreferred(requirement: Requirement, a: Environment, b: Environment): boolean {
  const byFeatures = Number(hasAll(requirement, a)) - Number(hasAll(requirement, b))
  const byUserland = Number(mayBind(requirement, a)) - Number(mayBind(requirement, b))
  const byMachine = Number(isEmulated(b)) - Number(isEmulated(a))
  const order = byFeatures || byUserland || byMachine
  return order === 0 ? isStronger(a, b) : order > 0
}

const hasAll = ({ features }: Requirement, environment: Environment): boolean =>
  features.every((feature) => hasFeature(environment, feature))

function mayBind(requirement: Requirement, environment: Environment): boolean {
  const bound = bindingFor(requirement, environment)
  return bound === undefined || sameUserland(bound, environment) !== false
}

/** The userland that a job has to be built with there; none where an image is its userland. */
function bindingFor(
  { isFetch, bindings }: Requirement,
  { isolation, system }: Environment,
): Userland | undefined {
  return isFetch || isolation === 'image' ? undefined : bindings.get(system)
}

/** Whether all of `want` is the same in `have`; undefined while `have` has not told it all. */
function sameUserland(want: Userland, have: Userland): boolean | undefined {
  if (want.base !== have.base) return false
  let isKnown = true
  for (const [tool, digest] of Object.entries(want.tools)) {
    const found = toolOf(have, tool)
    if (found === undefined) isKnown = false
    else if (found !== digest) return false
  }
  return isKnown ? true : undefined
}

/**
 * All checks of one job against one node, failing or not. The job can start there now when all are ok,
 * and could some day when no failing one is permanent. `obstacle` is why it cannot get an input of the job.
 */
export function verdictsOf(
  requirement: Requirement,
  node: NodeEntry,
  job?: Job,
  obstacle?: string,
): Verdict[] {
  const verdicts: Verdict[] = []
  const check = (
    requirementText: string,
    want: string,
    have: string,
    ok: boolean,
    permanent: boolean,
  ): void => {
    verdicts.push({ requirement: requirementText, want, have, ok, permanent })
  }
  checkEnvironments(requirement, node.environments, check)
  const free = freeOf(node)
  const whole = wholeOf(node)
  checkAmount(
    check,
    'cpus',
    requirement.cpusMin,
    { capacity: node.capacity.cpus, whole: whole.cpus, free: free.cpus, policy: node.policy?.name },
    String,
  )
  if (requirement.memoryBytes > 0)
    checkAmount(
      check,
      'memory',
      requirement.memoryBytes,
      {
        capacity: node.capacity.memoryBytes,
        whole: whole.memoryBytes,
        free: free.memoryBytes,
        policy: node.policy?.name,
      },
      formatSize,
    )
  if (requirement.diskBytes > 0)
    checkAmount(
      check,
      'disk',
      requirement.diskBytes,
      {
        capacity: node.capacity.diskBytes,
        whole: node.capacity.diskBytes,
        free: free.diskBytes,
      },
      formatSize,
    )
  if (job !== undefined && job.avoid.has(node.peerId))
    check('not failed here', 'yes', 'it failed here before', false, false)
  const refusal = job?.refusedBy.get(node.peerId)
  if (refusal !== undefined) check('not refused here', 'yes', refusal.reason, false, false)
  if (obstacle !== undefined) check('inputs', 'within reach', obstacle, false, false)
  // What a node that has just come back had before holds until its first message, but is not built on.
  const isTold = !node.connected || node.ackSeq > 0
  check(
    'state',
    'ready',
    !isTold
      ? 'just connected'
      : node.state === 'full' && node.note !== ''
        ? `full: ${node.note}`
        : node.state,
    isTold && node.state === 'ready',
    false,
  )
  return verdicts
}

type Check = (
  requirement: string,
  want: string,
  have: string,
  ok: boolean,
  permanent: boolean,
) => void

/** What hangs on environments alone, and is the same for all nodes that have them. */
function checkEnvironments(
  requirement: Requirement,
  environments: readonly Environment[],
  check: Check,
): void {
  const systems = [...new Set(environments.map((environment) => environment.system))]
  const serving = environments.filter((environment) => systemServes(requirement, environment))
  check(
    'system',
    requirement.hosts.join(' or '),
    systems.join(', ') || 'none',
    serving.length > 0,
    true,
  )
  const environment = environmentFor(requirement, { environments })
  const near = serving.length > 0 ? serving : environments
  const walls = wallsWanted(requirement, near)
  if (walls !== undefined) {
    const fitting = near.filter((one) => hasWalls(requirement, one))
    check(
      'isolation',
      walls,
      strongestOf(fitting.length > 0 ? fitting : near),
      fitting.length > 0,
      true,
    )
  }
  for (const feature of requirement.features) {
    const ok = environment !== undefined && hasFeature(environment, feature)
    check(`feature ${feature}`, 'yes', ok ? 'yes' : 'no', ok, true)
  }
  if (environment !== undefined) checkUserland(requirement, environment, check)
}

function checkUserland(requirement: Requirement, environment: Environment, check: Check): void {
  // Nothing of the host takes part in what is built in an image.
  if (environment.isolation === 'image') return
  for (const tool of requirement.tools) {
    const digest = toolOf(environment, tool)
    const have = digest === undefined ? 'not probed yet' : digest === null ? 'missing' : 'yes'
    // A missing program may yet be an input or be found elsewhere in the sandbox: the build will tell.
    check(`tool ${tool}`, 'known', have, digest !== undefined, false)
  }
  const bound = bindingFor(requirement, environment)
  if (bound === undefined) return
  const same = sameUserland(bound, environment)
  const differing = Object.keys(bound.tools).find(
    (tool) =>
      toolOf(environment, tool) !== undefined && toolOf(environment, tool) !== bound.tools[tool],
  )
  const have =
    same === true
      ? 'the same'
      : same === undefined
        ? 'not probed yet'
        : `another (${differing ?? 'os, libc or compiler'} differs)`
  check(
    'userland',
    `the one of the request (${bound.base.slice(0, 8)})`,
    have,
    same === true,
    same === false,
  )
}

interface Amount {
  readonly capacity: number
  /** Policies aside. */
  readonly whole: number
  readonly free: number
  /** Why `capacity` is less. */
  readonly policy?: string | undefined
}

function checkAmount(
  check: Check,
  name: string,
  want: number,
  { capacity, whole, free, policy }: Amount,
  format: (amount: number) => string,
): void {
  const permanent = whole < want
  const have = permanent
    ? `${format(whole)} in all`
    : `${format(free)} of ${format(capacity)} free${capacity < whole ? `, ${format(whole)} in all (${policy})` : ''}`
  check(name, `>= ${format(want)}`, have, free >= want, permanent)
}

/** What a machine has in all, of which its policy leaves builds a part for now. One that is disabled stays so. */
function wholeOf({ capacity, policy }: NodeEntry): { cpus: number; memoryBytes: number } {
  if (policy === undefined || policy.name === 'disabled') return capacity
  return {
    cpus: Math.max(capacity.cpus, policy.of),
    memoryBytes: Math.max(capacity.memoryBytes, policy.wholeMemoryBytes),
  }
}

export function freeOf(node: NodeEntry): { cpus: number; memoryBytes: number; diskBytes: number } {
  return {
    cpus: node.capacity.cpus - node.allocated.cpus,
    memoryBytes: node.capacity.memoryBytes - node.allocated.memoryBytes,
    diskBytes: node.capacity.diskBytes - node.allocated.diskBytes,
  }
}

/** Whether the job can start on the node now, its earlier failures there aside. */
export function canStart(requirement: Requirement, node: NodeEntry): boolean {
  if (node.state !== 'ready' || node.capacity.cpus - node.allocated.cpus < requirement.cpusMin)
    return false
  return verdictsOf(requirement, node).every((verdict) => verdict.ok)
}

/** Whether the node matches now or may when it is back, free or probed. */
export function mayEverStart(requirement: Requirement, node: NodeEntry): boolean {
  return choicesOf(node).some((environments) =>
    verdictsOf(requirement, { ...node, environments }).every(
      ({ ok, permanent }) => ok || !permanent,
    ),
  )
}

/** What environments are to a requirement, room and state aside. */
export interface Fit {
  /** A node that has them may run it, some day. */
  readonly isPossible: boolean
  /** One can, now. */
  readonly isNow: boolean
  /** It would run there in an environment that the machine emulates. */
  readonly isEmulated: boolean
}

export function fitOf(requirement: Requirement, node: NodeEntry): Fit {
  const fits = choicesOf(node).map((environments): Fit => {
    let isPossible = true
    let isNow = true
    checkEnvironments(requirement, environments, (_requirement, _want, _have, ok, permanent) => {
      isPossible &&= ok || !permanent
      isNow &&= ok
    })
    const environment = environmentFor(requirement, { environments })
    return { isPossible, isNow, isEmulated: environment !== undefined && isEmulated(environment) }
  })
  return {
    isPossible: fits.some(({ isPossible }) => isPossible),
    isNow: fits.some(({ isNow }) => isNow),
    isEmulated: fits.every((fit) => fit.isEmulated),
  }
}

/** A node runs a job in the strongest of its environments that will do; what stands for many nodes has each of theirs for itself. */
function choicesOf({ bundle, environments }: NodeEntry): readonly (readonly Environment[])[] {
  if (bundle === undefined || environments.length === 0) return [environments]
  return environments.map((environment) => [environment])
}

/** What the closest of the nodes lacks for good, with the observed values; no node fits when this is asked. */
export function describeMisfit(
  requirement: Requirement,
  nodes: readonly NodeEntry[],
): { readonly text: string; readonly lacks: readonly string[] } {
  let best: { node: NodeEntry; failing: readonly Verdict[] } | undefined
  for (const node of nodes) {
    if (node.environments.length === 0) continue
    const failing = verdictsOf(requirement, node).filter(
      (verdict) => !verdict.ok && verdict.permanent,
    )
    if (best === undefined || failing.length < best.failing.length) best = { node, failing }
  }
  if (best === undefined)
    return { text: 'no node of the mesh builds anything: no worker has joined yet', lacks: [] }
  const values = best.failing.map(
    (verdict) => `${verdict.requirement} ${verdict.want} asked, ${verdict.have}`,
  )
  return {
    text: `no node matches; closest is ${best.node.record.name}: ${values.join('; ')}`,
    lacks: best.failing.map((verdict) => verdict.requirement),
  }
}

/** The userland that a job's fingerprint and its requests' binding are made from; null for fetches, and in an image, which the job names itself. */
export function userlandOfJob(requirement: Requirement, environment: Environment): Userland | null {
  if (requirement.isFetch || environment.isolation === 'image') return null
  return (
    userlandFor({ base: environment.base, tools: environment.tools }, requirement.tools) ?? null
  )
}

/** Whether a result made with `userland` may be mixed into a request bound to `bound`. */
export function fitsBinding(userland: Userland | null, bound: Userland | undefined): boolean {
  if (userland === null || bound === undefined) return true
  if (userland.base !== bound.base) return false
  return Object.entries(userland.tools).every(([tool, digest]) =>
    [undefined, digest].includes(toolOf(bound, tool)),
  )
}

/** Whether something made with `userland` for `system` may be mixed into the step's request. */
export function fitsStep(userland: Userland | null, system: string, step: Step): boolean {
  return fitsBinding(userland, step.request.bindings.get(system))
}
