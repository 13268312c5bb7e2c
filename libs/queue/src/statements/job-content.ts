/**
 * What a job is about, as `contentHash` tells it: of one that was sent without, since nobody has asked so far whether another
 * is the same. It is what was sent, for as long as no checkpoint has written another payload.
 */
export const contentHashOf = (job: string): string => `coalesce(${job}.idempotency_hash, left(translate(encode(sha256(
      convert_to(${job}.name, 'UTF8') || '\\x00' || convert_to(coalesce(${job}.payload::text, ''), 'UTF8')
        || coalesce('\\x00' || ${job}.payload_bytes, '')
    ), 'base64'), '+/', '-_'), 11))`;
