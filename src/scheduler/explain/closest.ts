/** Which requirements are worth a row, and which node lacks least. */
import type { Verdict, WhyGroup, WhyNode } from '../../wire/api.ts'
import { lackOf } from './groups.ts'

/** What nobody asked for, and every node of a usual mesh has: shown only where one lacks it. */
function isUsual({ requirement, want, ok, permanent }: Verdict): boolean {
  if (requirement.startsWith('tool ')) return ok
  switch (requirement) {
    case 'isolation':
    case 'userland':
    case 'inputs':
    case 'not failed here':
    case 'not refused here':
      return ok
    case 'cpus':
      // That a node is busy is seen from its state.
      return want === '>= 1' && (ok || !permanent)
    default:
      return false
  }
}

/** Names of the requirements that make a row, in their order; the state of the nodes comes last. */
export function shownRequirements(
  groups: readonly { readonly verdicts: readonly Verdict[] }[],
): string[] {
  const shown = new Set<string>()
  for (const { verdicts } of groups)
    for (const verdict of verdicts)
      if (verdict.requirement !== 'state' && !isUsual(verdict)) shown.add(verdict.requirement)
  return [...shown, 'state']
}

/** `arm-1 fails 1 of 4 (memory 32 GiB asked, 16 GiB total). This cannot change by waiting.`; undefined where a node lacks nothing for good. */
export function closestText(
  nodes: readonly WhyNode[],
  groups: readonly WhyGroup[],
): string | undefined {
  const rows: readonly { readonly title: string; readonly verdicts: readonly Verdict[] }[] =
    nodes.length > 0 && nodes.length >= countOf(groups)
      ? nodes.map((node) => ({ title: node.node, verdicts: node.verdicts }))
      : groups.map((group) => ({
          title: group.count === 1 ? group.title : (group.nodes[0] ?? group.title),
          verdicts: group.verdicts,
        }))
  let closest: (typeof rows)[number] | undefined
  for (const row of rows)
    if (closest === undefined || lackOf(row.verdicts) < lackOf(closest.verdicts)) closest = row
  if (closest === undefined) return undefined
  const failing = closest.verdicts.filter(({ ok, permanent }) => !ok && permanent)
  if (failing.length === 0) return undefined
  const shown = shownRequirements(rows)
  const reasons = failing.map((verdict) => lackText(verdict))
  return `${closest.title} fails ${failing.length} of ${shown.length} (${reasons.join('; ')}). This cannot change by waiting.`
}

const countOf = (groups: readonly WhyGroup[]): number =>
  groups.reduce((sum, { count }) => sum + count, 0)

/** What it lacks for good: `memory 32 GiB asked, 16 GiB total`. */
function lackText(verdict: Verdict): string {
  const { requirement, want, have } = verdict
  const asked = want.replace(/^>= /, '')
  switch (requirement) {
    case 'cpus':
    case 'memory':
    case 'disk':
      return `${requirement} ${asked} asked, ${verdict.brief ?? have} total`
    default:
      return requirement.startsWith('feature ') || requirement.startsWith('tool ')
        ? `${requirement}: ${have === 'no' ? 'not there' : have}`
        : `${requirement} ${asked} asked, ${have} there`
  }
}
