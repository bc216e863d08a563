/**
 * Where a job may run: its systems, and at each of them whether it is built in an image. A derivation may have
 * an image for one system and the host's own tools for another, even for one machine and not for the next:
 * what it then needs of a node hangs on the environment that is looked at.
 */
import { hostsOf, imageFor, type Derivation } from '../wire/derivation.ts'
import type { Environment } from '../wire/environment.ts'
import { machineOf } from './isolation.ts'

/** Of several that fit an environment the one with its machine counts. */
export interface JobPlace {
  readonly system: string
  /** Only for environments of such a machine; left out: of any other. */
  readonly machine?: string | undefined
  readonly image: boolean
}

/** What of a requirement says where it may run. */
export interface Placed {
  /** `any` for what runs everywhere. */
  readonly hosts: readonly string[]
  readonly sealed: boolean
  readonly places: readonly JobPlace[]
  readonly machine?: string | undefined
}

/** No machine is of this system: what is for any machine is asked for with it. */
const ANY_MACHINE = ''

/** Sorted; empty for a derivation that is never built in an image. */
export function placesOf(
  derivation: Pick<Derivation, 'hosts' | 'system' | 'variants' | 'image'>,
): JobPlace[] {
  const isImageAt = (system: string, machine: string): boolean =>
    imageFor(derivation, { system, machine }).length > 0
  const places: JobPlace[] = []
  for (const system of hostsOf(derivation)) {
    const image = isImageAt(system, ANY_MACHINE)
    places.push({ system, image })
    for (const { host, machine } of derivation.variants)
      if (host === system && machine !== undefined && isImageAt(system, machine) !== image)
        places.push({ system, machine, image: !image })
  }
  return places.some(({ image }) => image) ? places.toSorted(byName) : []
}

function byName(a: JobPlace, b: JobPlace): number {
  const [left, right] = [a, b].map(({ system, machine }) => `${system} ${machine ?? ''}`)
  return left === right ? 0 : (left ?? '') < (right ?? '') ? -1 : 1
}

/** Whether the job is built in an image there. Of a system that is none of its own: whether it ever is. */
function needsImage({ places }: Placed, environment: Environment): boolean {
  const fitting = places.filter(({ system }) => system === environment.system)
  const place =
    fitting.find(({ machine }) => machine === machineOf(environment)) ??
    fitting.find(({ machine }) => machine === undefined)
  return place?.image ?? places.some(({ image }) => image)
}

export function systemServes(
  { hosts, machine }: Placed,
  environment: Pick<Environment, 'system' | 'machine'>,
): boolean {
  if (machine !== undefined && machine !== machineOf(environment)) return false
  return hosts.includes('any') || hosts.includes(environment.system)
}

/** Whether its walls are what the job asks for: an image takes only jobs that name one, and those take nothing else. */
export function hasWalls(placed: Placed, environment: Environment): boolean {
  if (needsImage(placed, environment)) return environment.isolation === 'image'
  if (environment.isolation === 'image') return false
  return !placed.sealed || environment.isolation !== 'host'
}

export function doesServe(placed: Placed, environment: Environment): boolean {
  return systemServes(placed, environment) && hasWalls(placed, environment)
}

/** What people read of the walls that the job asks for in these environments; undefined where any will do. */
export function wallsWanted(
  placed: Placed,
  environments: readonly Environment[],
): string | undefined {
  const isAnyImage =
    environments.length === 0
      ? placed.places.some(({ image }) => image)
      : environments.some((environment) => needsImage(placed, environment))
  const isAnyHost = environments.some((environment) => !needsImage(placed, environment))
  const wanted = [
    ...(placed.sealed && (isAnyHost || !isAnyImage) ? ['namespace'] : []),
    ...(isAnyImage ? ['image'] : []),
  ]
  return wanted.length === 0 ? undefined : wanted.join(' or ')
}
