"""A shop's word for what happened in, Google Analytics 4's name for it out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import ibis.expr.types as ir

from endcap.contracts import events as contract
from endcap.ingest.sources.normalized import NOT_USED

EVENT_WORDS: Final[Mapping[str, str]] = {
    **{name: name for name in contract.EVENT_TYPES},
    **dict.fromkeys(
        ("view", "views", "viewed", "page_view", "pageview", "pv", "product_view", "product_viewed", "view_product",
         "detail", "detail_view", "detail_page_view", "read", "visit", "watch", "view_content", "viewcontent", "item_view"),
        contract.VIEW_ITEM,
    ),
    **dict.fromkeys(("click", "clicks", "clicked", "select", "product_click", "click_item"), contract.SELECT_ITEM),
    **dict.fromkeys(
        ("cart", "addtocart", "add_cart", "to_cart", "add", "basket", "add_to_basket", "product_added", "atc"),
        contract.ADD_TO_CART,
    ),
    **dict.fromkeys(
        ("removefromcart", "remove_cart", "remove_from_basket", "product_removed", "remove"),
        contract.REMOVE_FROM_CART,
    ),
    **dict.fromkeys(
        ("like", "star", "fav", "favorite", "favourite", "wishlist", "addtowishlist", "add_to_favorites", "save"),
        contract.ADD_TO_WISHLIST,
    ),
    **dict.fromkeys(("checkout", "initiate_checkout", "initiatecheckout", "begincheckout", "checkout_started"), contract.BEGIN_CHECKOUT),
    **dict.fromkeys(
        ("buy", "bought", "purchased", "order", "ordered", "transaction", "sale", "purchase_complete", "order_completed",
         "checkout_complete", "conversion"),
        contract.PURCHASE,
    ),
    **dict.fromkeys(("return", "returned", "refunded", "cancel", "cancelled"), contract.REFUND),
    **dict.fromkeys(("impression", "impressions", "list", "category_page_view", "view_list", "product_list_viewed", "show"), contract.VIEW_ITEM_LIST),
    **dict.fromkeys(("query", "searched", "products_searched", "view_search_results"), contract.SEARCH),
}  # fmt: skip
"""By the folded word (`folded_word`). A word of another meaning in some shop is for a mapping file to say."""

NOT_USED_WORDS: Final = (
    "home",
    "home_page_view",
    "login",
    "logout",
    "signup",
    "sign_up",
    "session_start",
    "page_leave",
    "scroll",
)
"""Words for what Endcap learns nothing from."""


def folded_word(word: str) -> str:
    """Lower case, with `_` for what parts the word's words: `AddToCart`, `add-to-cart` -> `add_to_cart`."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", word.strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def folded(word: ir.StringValue) -> ir.StringValue:
    """What `folded_word` does, as an expression."""
    spaced = word.re_replace(r"([a-z0-9])([A-Z])", r"\1_\2").lower()
    result: ir.StringValue = spaced.re_replace(r"[^a-z0-9]+", "_").re_replace(r"^_+|_+$", "")
    return result


def known_words() -> dict[str, str]:
    """Every folded word with its event type or `NOT_USED`."""
    return {**EVENT_WORDS, **dict.fromkeys(NOT_USED_WORDS, NOT_USED)}
